"""Exchange of a network's convolutions for another way to compute them, for the time of a training step."""

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def exchange_convs(model: nn.Module, kind: type[nn.Conv2d], suits: Callable[[nn.Conv2d], bool]) -> Iterator[None]:
    """Inside, the convolutions of the model that suit are of the class `kind`.

    Only plain `nn.Conv2d` without groups and dilation, padded with a number of zeros.
    """
    convs = [module for module in model.modules() if type(module) is nn.Conv2d and _is_plain(module) and suits(module)]
    for conv in convs:
        conv.__class__ = kind
    try:
        yield
    finally:
        for conv in convs:
            conv.__class__ = nn.Conv2d


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def output_sides(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[int, int]:
    """Return height and width of the convolution of x (N, C, H, W) with a kernel (height, width)."""
    height, width = ((x.shape[2 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1))
    return height, width
