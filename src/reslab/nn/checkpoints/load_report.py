"""The result of loading a checkpoint, and the errors and warnings of reading one."""

from dataclasses import dataclass

from reslab.spec.errors import invalid

Shape = tuple[int, ...]


class CheckpointError(ValueError):
    """A file that is not a checkpoint, or does not fit the network; `report` lists every key if the file was read."""

    def __init__(self, message: str, report: "LoadReport | None" = None) -> None:
        super().__init__(message)
        self.report = report


class CheckpointWarning(UserWarning):
    """The weights were loaded, but they may come from another network than the requested one."""


def invalid_checkpoint(required: str, got: object, nearest: str = "", next_step: str = "") -> CheckpointError:
    """Return the CheckpointError with the message of `reslab.spec.errors.invalid`."""
    return CheckpointError(str(invalid(required, got, nearest, next_step)))


@dataclass(frozen=True)
class LoadReport:
    """Which entries of `file` were loaded into which parameters of `network`.

    * `matched`: (key in the file, key in the network).
    * `missing`: keys of the network that the file lacks. `unexpected`: keys of the file that the network lacks.
    * `shape_mismatch`: (key, shape in the file, shape in the network).
    * `reinitialized`: keys left at their random initial values, as requested.
    * `by_order`: matched by order and shape, not by name.
    * `prefixes`: removed from the file's keys. `num_entries`: entries of the file.
    * `messages`: what was done. `warnings`: what may be wrong.
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
        """Whether every entry of the file and every key of the network was matched."""
        return bool(self.matched) and not (self.missing or self.unexpected or self.shape_mismatch)

    @property
    def summary(self) -> str:
        """One line: how many entries matched, and by which key scheme."""
        method = "by order and shape" if self.by_order else f"by name, key scheme {self.key_scheme}"
        method += f", without the prefix {''.join(self.prefixes)}" if self.prefixes else ""
        return f"{self.network}: {len(self.matched)} of {self.num_entries} entries of {self.file} matched ({method})"

    def text(self, max_keys: int | None = None) -> str:
        """Return the whole report as lines, with at most `max_keys` keys of each list."""
        shapes = [
            f"{key} (file {list(file_shape)}, network {list(model_shape)})"
            for key, file_shape, model_shape in self.shape_mismatch
        ]
        lists = {"missing in the file": self.missing, "unexpected in the file": self.unexpected}
        lists |= {"different shapes": tuple(shapes), "left at random initial values": self.reinitialized}
        lines = [self.summary]
        lines += [f"  {name} ({len(keys)}): {_format_keys(keys, max_keys)}" for name, keys in lists.items() if keys]
        return "\n".join([*lines, *(f"  {message}" for message in (*self.messages, *self.warnings))])

    def __str__(self) -> str:
        return self.text()


def _format_keys(keys: tuple[str, ...], max_keys: int | None) -> str:
    shown = ", ".join(keys[:max_keys])
    return shown if max_keys is None or len(keys) <= max_keys else f"{shown} and {len(keys) - max_keys} more"
