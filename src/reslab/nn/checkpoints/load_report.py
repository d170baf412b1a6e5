"""What came of loading a checkpoint: which keys matched, which did not, and what else must be said."""

from dataclasses import dataclass

Shape = tuple[int, ...]


class CheckpointError(ValueError):
    """A file that is no checkpoint, or does not fit the network; `report` says key by key where it was read."""

    def __init__(self, message: str, report: "LoadReport | None" = None) -> None:
        super().__init__(message)
        self.report = report


class CheckpointWarning(UserWarning):
    """The weights are in, but the network asked for may not be the one they were trained in."""


@dataclass(frozen=True)
class LoadReport:
    """Which entries of `file` went where in `network`.

    `matched`: (key in the file, key in the network). `missing`: keys of the network that the file has not.
    `unexpected`: keys of the file that the network has not. `other_shapes`: (key, shape in the file, shape in the
    network). `fresh`: keys left as drawn, by request. `by_order`: matched by order and shape, not by name. `prefixes`:
    what was taken off the file's keys. `num_entries`: entries of the file. `notes` say what was done, `warnings` what
    may be wrong.
    """

    network: str
    file: str
    key_scheme: str
    matched: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shape_mismatch: tuple[tuple[str, Shape, Shape], ...] = ()
    reinitialized: tuple[str, ...] = ()
    by_order: bool = False
    prefixes: tuple[str, ...] = ()
    num_entries: int = 0
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every key of either side found its place."""
        return bool(self.matched) and not (self.missing or self.unexpected or self.shape_mismatch)

    @property
    def summary(self) -> str:
        """One line: how many entries matched, and in which dialect."""
        method = "by order and shape" if self.by_order else f"by name, dialect {self.key_scheme}"
        method += f", without the prefix {''.join(self.prefixes)}" if self.prefixes else ""
        return f"{self.network}: {len(self.matched)} of {self.num_entries} entries of {self.file} matched ({method})"

    def text(self, max_keys: int | None = None) -> str:
        """All of it in lines; at most `most` keys of each list where given."""
        shapes = [
            f"{key} (file {list(file_shape)}, network {list(model_shape)})"
            for key, file_shape, model_shape in self.shape_mismatch
        ]
        lists = {"missing in the file": self.missing, "unexpected in the file": self.unexpected}
        lists |= {"other shapes": tuple(shapes), "left fresh": self.reinitialized}
        lines = [self.summary]
        lines += [f"  {name} ({len(keys)}): {_format_keys(keys, max_keys)}" for name, keys in lists.items() if keys]
        return "\n".join([*lines, *(f"  {message}" for message in (*self.messages, *self.warnings))])

    def __str__(self) -> str:
        return self.text()


def _format_keys(keys: tuple[str, ...], max_keys: int | None) -> str:
    shown = ", ".join(keys[:max_keys])
    return shown if max_keys is None or len(keys) <= max_keys else f"{shown} and {len(keys) - max_keys} more"
