"""How far a long measurement has come: told to whoever listens, and to nobody where nobody does.

Whether a question that takes all pictures at once finds the memory for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

from torch import Tensor, nn

from reslab.nn.cost import layer_table
from reslab.runtime.memory import Memory
from reslab.spec.errors import refuse

Listener = Callable[[str], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """What is measured inside the block tells `listener` its cost beforehand and how far it is, in words."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(words: str) -> None:
    """Say `words` to whoever listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(words)


_GIB = 2**30


class NoRoom(ValueError):
    """There is not the memory now; another time there may be."""


def check_room(model: nn.Module, images: Tensor, share: float = 1.0) -> None:
    """NoRoom, with what it would need, where that share of all layers' outputs does not fit the free memory.

    Measured on resnet56_cifar and resnet50: with gradients 0.9 and 1.2 of all outputs are held at most, without them
    (the units' outputs alone) 0.3 and 0.6.
    """
    try:
        numbers = sum(prod(layer.output_shape) for layer in layer_table(model, tuple(images.shape[1:])))
    except (RuntimeError, TypeError, ValueError):
        return  # a module of others whose way depends on its numbers: it is asked all the same
    one = max(1, round(share * numbers * images.element_size()))
    room = Memory(images.device).room_bytes()
    if room is None or len(images) * one <= room:
        return
    most = room // one
    got = f"{len(images)} pictures, which need about {len(images) * one / _GIB:.1f} GiB of {room / _GIB:.1f} free"
    nearest = f"--images {most}" if most >= 2 else ""
    raise NoRoom(refuse("pictures that fit the memory all at once", got, nearest))
