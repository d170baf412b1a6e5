"""Layers that keep the number of channels: scalars, dropout, pools."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.registry import Site, builder, make_activation, make_norm_layer
from reslab.spec.arithmetic import evaluate
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


class BlurPool2d(nn.Module):
    """A binomial filter over reflected borders with a stride (Zhang 2019, arXiv:1904.11486, Sec. 3).

    N C H W to N C H/stride W/stride. No parameters; the filter is not saved with the weights.
    """

    filter: Tensor

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        # On the CPU also under a `meta` device context: the filter is not in any checkpoint that would fill it.
        row = torch.ones(1, dtype=torch.float32, device="cpu")
        for _ in range(size - 1):
            row = F.pad(row, (0, 1)) + F.pad(row, (1, 0))
        self.register_buffer("filter", torch.outer(row, row) / row.sum() ** 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = (self.size - 1) // 2
        kernel = self.filter.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        x = F.pad(x, (padding,) * 4, mode="reflect")
        return F.conv2d(x, kernel, stride=self.stride, groups=x.shape[1])

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}"


class ZeroMaxPool2d(nn.MaxPool2d):
    """Max-pool over maps padded with zeros, not with minus infinity (fixed padding of BiT and TensorFlow models)."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.padding, int)
        return F.max_pool2d(F.pad(x, (self.padding,) * 4), self.kernel_size, self.stride)


@builder(Family.LAYER, "bias")
def bias(site: Site) -> nn.Module:
    return Bias()


@builder(Family.LAYER, "scale")
def scale(site: Site) -> nn.Module:
    return Scale()


@builder(Family.LAYER, "mul")
def multiply(site: Site, factor: float | str) -> nn.Module:
    return Multiply(evaluate(factor, site.names) if isinstance(factor, str) else factor)


@builder(Family.LAYER, "drop")
def dropout(site: Site, rate: float | None = None) -> nn.Module:
    return nn.Dropout(site.arch.drop_rate if rate is None else rate)


@builder(Family.LAYER, "drop2d")
def dropout2d(site: Site, rate: float | None = None) -> nn.Module:
    return nn.Dropout2d(site.arch.drop_rate if rate is None else rate)


@builder(Family.LAYER, "flatten")
def flatten(site: Site) -> nn.Module:
    return nn.Flatten(1)


# Without a size, a pool of a branch covers its stride, and a pool of stem or head the whole map.
@builder(Family.LAYER, "maxpool")
def max_pool(site: Site, size: int | None, stride: int, mode: str = "") -> nn.Module:
    if size is None and site.block is None:
        return nn.AdaptiveMaxPool2d(1)
    size = size or stride
    if mode == "ceil":
        return nn.MaxPool2d(size, stride, ceil_mode=True)
    return (ZeroMaxPool2d if mode == "zero" else nn.MaxPool2d)(size, stride, (size - 1) // 2)


@builder(Family.LAYER, "avgpool")
def average_pool(site: Site, size: int | None, stride: int) -> nn.Module:
    if size is None and site.block is None:
        return nn.AdaptiveAvgPool2d(1)
    size = size or stride
    return nn.AvgPool2d(size, stride, (size - 1) // 2)


@builder(Family.LAYER, "blurpool")
def blur_pool(site: Site, size: int | None, stride: int) -> nn.Module:
    return BlurPool2d(size or 3, stride)


@builder(Family.LAYER, "norm")
def norm(site: Site, kind: str | None = None) -> nn.Module | None:
    if kind is None:
        return site.norm(site.channels) if site.norm else None
    make_norm = make_norm_layer(kind, site.arch.norm_eps, site.arch.norm_momentum)
    return make_norm(site.channels) if make_norm else None


@builder(Family.LAYER, "act")
def act(site: Site, kind: str | None = None) -> nn.Module:
    return make_activation(site.arch.act if kind is None else kind)
