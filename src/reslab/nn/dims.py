"""The layers of torch.nn for signals (N C T), images (N C H W) and volumes or clips (N C D H W)."""

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

CONV_TYPES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layer_class(name: str, dims: int) -> Any:
    """Return the class of torch.nn for maps of 1, 2 or 3 dimensions: `Conv` and 3 give `nn.Conv3d`."""
    return getattr(nn, f"{name}{dims}d")


def map_axes(x: Tensor) -> tuple[int, ...]:
    """Return the axes of the map: all but batch and channels; those of images while torch.fx traces."""
    return (2, 3) if isinstance(x, Proxy) else tuple(range(2, x.ndim))


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    """Return a vector of channels in a shape that multiplies N C ..."""
    return vector.view(1, -1, *map_ones(x))


def map_ones(x: Tensor) -> tuple[int, ...]:
    """Return the sides of a map of one position with as many dimensions as those of N C ..."""
    return (1,) * len(map_axes(x))
