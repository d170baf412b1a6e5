"""Whether a question that takes all pictures at once finds the memory for it."""

from math import prod

from torch import Tensor, nn

from reslab.nn.cost import layer_table
from reslab.spec.errors import refuse
from reslab.training.memory import Memory

_GIB = 2**30


def check_room(model: nn.Module, images: Tensor, num_copies: int = 1) -> None:
    """ValueError, with what it would need, where `num_copies` of every layer's output do not fit the free memory.

    Two copies where gradients are held too. A lower bound: convolutions take room of their own.
    """
    try:
        numbers = sum(prod(layer.output_shape) for layer in layer_table(model, tuple(images.shape[1:])))
    except (RuntimeError, TypeError, ValueError):
        return  # a module of others whose way depends on its numbers: it is asked all the same
    one = num_copies * numbers * images.element_size()
    room = Memory(images.device).room_bytes()
    if room is None or len(images) * one <= room:
        return
    most = room // one
    got = f"{len(images)} pictures, whose outputs take {len(images) * one / _GIB:.1f} GiB of {room / _GIB:.1f} free"
    raise refuse("pictures that fit the memory all at once", got, f"--images {most}" if most >= 2 else "")
