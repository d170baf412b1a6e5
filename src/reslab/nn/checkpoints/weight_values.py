"""The check of the values of loaded weights, and the one setting that allows NaN and infinity."""

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor

from reslab.nn.checkpoints.load_report import invalid_checkpoint

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
