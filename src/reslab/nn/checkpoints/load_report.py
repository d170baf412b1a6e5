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
    dialect: str
    matched: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    other_shapes: tuple[tuple[str, Shape, Shape], ...] = ()
    fresh: tuple[str, ...] = ()
    by_order: bool = False
    prefixes: tuple[str, ...] = ()
    num_entries: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every key of either side found its place."""
        return bool(self.matched) and not (self.missing or self.unexpected or self.other_shapes)

    @property
    def summary(self) -> str:
        """One line: how many entries matched, and in which dialect."""
        how = "by order and shape" if self.by_order else f"by name, dialect {self.dialect}"
        how += f", without the prefix {''.join(self.prefixes)}" if self.prefixes else ""
        return f"{self.network}: {len(self.matched)} of {self.num_entries} entries of {self.file} matched ({how})"

    def text(self, most: int | None = None) -> str:
        """All of it in lines; at most `most` keys of each list where given."""
        shapes = [f"{key} (file {list(file)}, network {list(own)})" for key, file, own in self.other_shapes]
        lists = {"missing in the file": self.missing, "unexpected in the file": self.unexpected}
        lists |= {"other shapes": tuple(shapes), "left fresh": self.fresh}
        lines = [self.summary]
        lines += [f"  {name} ({len(keys)}): {_some(keys, most)}" for name, keys in lists.items() if keys]
        return "\n".join([*lines, *(f"  {said}" for said in (*self.notes, *self.warnings))])

    def __str__(self) -> str:
        return self.text()


def _some(keys: tuple[str, ...], most: int | None) -> str:
    shown = ", ".join(keys[:most])
    return shown if most is None or len(keys) <= most else f"{shown} and {len(keys) - most} more"
