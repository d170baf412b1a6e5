"""How far a long measurement has come: told to whoever listens, and to nobody where nobody does.

Whether a question that takes all pictures at once finds the memory for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

from torch import Tensor, nn

from reslab.nn.cost import layer_table
from reslab.runtime.memory import MemoryTracker
from reslab.spec.errors import invalid

ProgressCallback = Callable[[str], None]

_PROGRESS_CALLBACK: ContextVar[ProgressCallback | None] = ContextVar("progress_callback", default=None)


@contextmanager
def progress_callback(callback: ProgressCallback) -> Iterator[None]:
    """What is measured inside the block tells `listener` its cost beforehand and how far it is, in words."""
    token = _PROGRESS_CALLBACK.set(callback)
    try:
        yield
    finally:
        _PROGRESS_CALLBACK.reset(token)


def report_progress(message: str) -> None:
    """Say `words` to whoever listens."""
    callback = _PROGRESS_CALLBACK.get()
    if callback is not None:
        callback(message)


_GIB = 2**30


class InsufficientMemoryError(ValueError):
    """There is not the memory now; another time there may be."""


def check_memory(model: nn.Module, images: Tensor, fraction: float = 1.0) -> None:
    """NoRoom, with what it would need, where that share of all layers' outputs does not fit the free memory.

    Measured on resnet56_cifar and resnet50: with gradients 0.9 and 1.2 of all outputs are held at most, without them
    (the units' outputs alone) 0.3 and 0.6.
    """
    try:
        num_values = sum(prod(layer.output_shape) for layer in layer_table(model, tuple(images.shape[1:])))
    except (RuntimeError, TypeError, ValueError):
        return  # a module of others whose way depends on its numbers: it is asked all the same
    bytes_per_image = max(1, round(fraction * num_values * images.element_size()))
    free_bytes = MemoryTracker(images.device).free_bytes()
    if free_bytes is None or len(images) * bytes_per_image <= free_bytes:
        return
    max_images = free_bytes // bytes_per_image
    got = f"{len(images)} pictures, which need about {len(images) * bytes_per_image / _GIB:.1f} GiB of {free_bytes / _GIB:.1f} free"
    suggestion = f"--images {max_images}" if max_images >= 2 else ""
    raise InsufficientMemoryError(invalid("pictures that fit the memory all at once", got, suggestion))
