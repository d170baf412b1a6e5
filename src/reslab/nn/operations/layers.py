"""Layers that keep the number of channels: activations, scalars, dropout, pools."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.registry import BUILDERS, Site, builder, layer_class, make_activation, make_norm_layer, map_axes
from reslab.spec.grammar import evaluate
from reslab.spec.operations import Family


class Bias(nn.Module):
    """x + b with one learned scalar b, initially 0 (Zhang, Dauphin and Ma 2019, Fig. 1). Any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Scale(nn.Module):
    """a x with one learned scalar a, initially 1 (Zhang, Dauphin and Ma 2019, Fig. 1). Any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Multiply(nn.Module):
    """a x with a fixed number a. Any shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


class BlurPool(nn.Module):
    """A binomial filter over reflected borders with a stride (Zhang 2019, arXiv:1904.11486, Sec. 3).

    N C H W to N C H/stride W/stride, or maps of 1 or 3 dimensions. No parameters; the filter is not saved with the
    weights.
    """

    filter: Tensor

    def __init__(self, size: int, stride: int, dims: int) -> None:
        super().__init__()
        self.size, self.stride, self.dims = size, stride, dims
        # On the CPU also under a `meta` device context: no checkpoint holds the filter.
        self.register_buffer("filter", self._binomial_filter(), persistent=False)

    def _binomial_filter(self) -> Tensor:
        row = torch.ones(1, dtype=torch.float32, device="cpu")
        for _ in range(self.size - 1):
            row = F.pad(row, (0, 1)) + F.pad(row, (1, 0))
        kernel = row / row.sum()
        for _ in range(self.dims - 1):
            kernel = kernel.unsqueeze(-1) * row / row.sum()
        return kernel

    def reset_buffers(self) -> None:
        """Compute the filter again, after `to_empty` has left it without values."""
        self.filter.copy_(self._binomial_filter())

    def forward(self, x: Tensor) -> Tensor:
        padding = (self.size - 1) // 2
        kernel = self.filter.to(x.dtype).expand(x.shape[1], 1, *self.filter.shape)
        x = F.pad(x, (padding, padding) * self.dims, mode="reflect")
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[self.dims]
        return convolve(x, kernel, stride=self.stride, groups=x.shape[1])

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}"


class ZeroPad(nn.Module):
    """Zeros around maps of any dimension, as many on each side."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.padding, self.padding) * len(map_axes(x)))


@builder(Family.LAYER, "bias")
def bias(site: Site) -> nn.Module:
    """Build a `Bias`, one learned number."""
    return Bias()


@builder(Family.LAYER, "scale")
def scale(site: Site) -> nn.Module:
    """Build a `Scale`, one learned factor."""
    return Scale()


@builder(Family.LAYER, "mul")
def multiply(site: Site, factor: float | str) -> nn.Module:
    """Build a `Multiply` by a number, or by an expression over the names of the site."""
    return Multiply(evaluate(factor, site.names) if isinstance(factor, str) else factor)


@builder(Family.LAYER, "drop")
def dropout(site: Site, rate: float | None = None) -> nn.Module:
    """Build `torch.nn.Dropout`, by default with the rate of the network."""
    return nn.Dropout(site.arch.drop_rate if rate is None else rate)


@builder(Family.LAYER, "drop2d")
def dropout2d(site: Site, rate: float | None = None) -> nn.Module:
    """Build dropout of whole channels, by default with the rate of the network."""
    return layer_class("Dropout", site.arch.dims)(site.arch.drop_rate if rate is None else rate)


@builder(Family.LAYER, "flatten")
def flatten(site: Site) -> nn.Module:
    """Build `torch.nn.Flatten`: (N, ...) to (N, features)."""
    return nn.Flatten(1)


# Without a size, a pool of a branch covers its stride, and a pool of stem or head the whole map.
@builder(Family.LAYER, "maxpool")
def max_pool(site: Site, size: int | None, stride: int, mode: str = "") -> nn.Module:
    """Build a max pool: of the whole map, with padding, with `ceil` mode, or with `zero` padding that counts."""
    if size is None and site.block is None:
        return _pool("AdaptiveMaxPool", site, 1)
    size = size or stride
    if mode == "ceil":
        return _pool("MaxPool", site, size, stride, ceil_mode=True)
    if mode == "zero":
        # The zeros of fixed padding (BiT, TensorFlow) take part in the maximum; the padding of torch.nn does not.
        return nn.Sequential(ZeroPad((size - 1) // 2), _pool("MaxPool", site, size, stride))
    return _pool("MaxPool", site, size, stride, (size - 1) // 2)


@builder(Family.LAYER, "avgpool")
def average_pool(site: Site, size: int | None, stride: int) -> nn.Module:
    """Build an average pool, of the whole map or with padding."""
    if size is None and site.block is None:
        return _pool("AdaptiveAvgPool", site, 1)
    size = size or stride
    return _pool("AvgPool", site, size, stride, (size - 1) // 2)


@builder(Family.LAYER, "blurpool")
def blur_pool(site: Site, size: int | None, stride: int) -> nn.Module:
    """Build a `BlurPool`, by default of size 3."""
    return BlurPool(size or 3, stride, site.arch.dims)


def _pool(name: str, site: Site, *sizes: int, **options: bool) -> nn.Module:
    module: nn.Module = layer_class(name, site.arch.dims)(*sizes, **options)
    return module


@builder(Family.LAYER, "norm")
def norm(site: Site, kind: str | None = None) -> nn.Module | None:
    """Build a norm of this kind, by default the network's; None where there is none."""
    if kind is None:
        return site.norm(site.channels) if site.norm else None
    make_norm = make_norm_layer(kind, site.arch.norm_eps, site.arch.norm_momentum, site.arch.dims)
    return make_norm(site.channels) if make_norm else None


@builder(Family.LAYER, "act")
def act(site: Site, kind: str | None = None) -> nn.Module:
    """Build an activation of this kind, by default the network's."""
    return make_activation(site.arch.act if kind is None else kind)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

BUILDERS[Family.ACT].update(_ACTIVATIONS)
