"""The result of loading a checkpoint, the errors and warnings of reading one, and the check of its values."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

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
    """The entries of `file` that were loaded, and the parameters of `network` that they became.

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
        """True if every entry of the file and every key of the network was matched."""
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


_num_allowing = 0


@contextlib.contextmanager
def allow_nonfinite_weights() -> Iterator[None]:
    """Load weights that are NaN or infinite without an error, in this process, within the `with` block."""
    global _num_allowing
    _num_allowing += 1
    try:
        yield
    finally:
        _num_allowing -= 1


def check_values(state: Mapping[str, Tensor], model_state: Mapping[str, Tensor], source: object) -> None:
    """Raise CheckpointError, naming the tensors of `source`, unless its weights are finite numbers of floating point.

    Counters, which are integers in the network, may be integers.
    """
    for name, tensor in state.items():
        if model_state[name].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            step = "save the weights as float32: they may be quantized"
            raise invalid_checkpoint("weights of floating point", f"{source}, where {name} is {kind}", next_step=step)
    names = [name for name, tensor in state.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if names and not _num_allowing:
        got = f"{source}, where {len(names)} of {len(state)} tensors are not: {', '.join(names[:3])}"
        step = "load an earlier checkpoint, or allow them with --allow-nonfinite (Python: allow_nonfinite_weights())"
        raise invalid_checkpoint("weights that are finite numbers", got, next_step=step)


def _is_finite(tensor: Tensor) -> bool:
    # A NaN makes minimum and maximum NaN: one pass, and no truth value for each element. Eight bits have no aminmax.
    values = tensor.float() if tensor.element_size() < 2 else tensor
    return not values.numel() or all(bool(value.isfinite()) for value in values.aminmax())
