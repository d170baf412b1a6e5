"""Norms: builders that take the number of channels, eps and momentum."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.registry import Site, builder, layer_class, map_axes, per_channel
from reslab.spec.errors import invalid
from reslab.spec.operations import Family


class LayerNormChannels(nn.LayerNorm):
    """Layer norm over the channels of each position (Ba et al. 2016). N C ... in and out."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class RmsNorm(nn.Module):
    """weight x / sqrt(mean(x^2) + eps) over the channels of each position. N C ... in and out."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt() * per_channel(self.weight, x)


class SimpleNorm(nn.Module):
    """weight x / sqrt(var(x) + eps), the unbiased variance over the channels of each position (timm's SimpleNorm)."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.var(1, keepdim=True) + self.eps).rsqrt() * per_channel(self.weight, x)


class InstanceBatchNorm(nn.Module):
    """Instance norm of the first channels, batch norm of the rest (Pan et al. 2018, Fig. 3(a)). N C H W in and out."""

    def __init__(self, channels: int, num_instance: int, eps: float, momentum: float, dims: int) -> None:
        super().__init__()
        self.num_instance = num_instance
        self.IN = layer_class("InstanceNorm", dims)(num_instance, eps, affine=True)
        self.BN = layer_class("BatchNorm", dims)(channels - num_instance, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x[:, : self.num_instance], x[:, self.num_instance :]
        return torch.cat((self.IN(first.contiguous()), self.BN(rest.contiguous())), 1)


class FilterResponseNorm(nn.Module):
    """max(weight x / sqrt(mean(x^2) + eps) + bias, tau), the mean over each map (Singh and Krishnan 2020, Eqs. 1-3)."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tau = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x * (x.square().mean(map_axes(x), keepdim=True) + self.eps).rsqrt()
        x = x * per_channel(self.weight, x) + per_channel(self.bias, x)
        return torch.maximum(x, per_channel(self.tau, x))


class EvoNormS0(nn.Module):
    """weight x sigmoid(v x) / sqrt(var(x) + eps) + bias, the variance within groups (Liu et al. 2020, Table 1)."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1)
        std = (grouped.var(2, unbiased=False, keepdim=True) + self.eps).sqrt().expand_as(grouped).reshape(x.shape)
        x = x * (x * per_channel(self.v, x)).sigmoid() / std
        return x * per_channel(self.weight, x) + per_channel(self.bias, x)


class GlobalResponseNorm(nn.Module):
    """x + bias + weight x g / (mean(g) + eps), g the L2 norm of each map (Woo et al. 2023, Eqs. 1-3).

    The mean is over the channels. Weight and bias start at 0. N C H W in and out.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        g = x.norm(p=2, dim=map_axes(x), keepdim=True)
        g = g / (g.mean(1, keepdim=True) + self.eps)
        return x + per_channel(self.bias, x) + per_channel(self.weight, x) * x * g


def _check_groups(groups: int, channels: int) -> None:
    if channels % groups:
        suggestion = max(divisor for divisor in range(1, groups + 1) if channels % divisor == 0)
        raise invalid(f"norm=group(G) with G dividing {channels} channels", f"group({groups})", f"group({suggestion})")


@builder(Family.NORM, "batch")
def batch_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build a BatchNorm of torch.nn."""
    return layer_class("BatchNorm", dims)(channels, eps, momentum)


@builder(Family.NORM, "frozen")
def frozen_batch_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build torchvision's `FrozenBatchNorm2d`."""

    from torchvision.ops import FrozenBatchNorm2d  # here, because torchvision takes a second to import

    return FrozenBatchNorm2d(channels, eps)


@builder(Family.NORM, "group")
def group_norm(
    channels: int, eps: float, momentum: float, dims: int, groups: int | None = None, size: int | None = None
) -> nn.Module:
    """Build `torch.nn.GroupNorm` with `groups`, or groups of `size` channels. Raises ValueError for other channels."""
    if (groups is None) == (size is None):
        raise invalid("norm=group(G), or group(size=N) for groups of N channels", "both or neither", "group(32)")
    if size is not None and channels % size:
        raise invalid(f"a group size that divides {channels} channels", size)
    num_groups = channels // size if size is not None else groups
    assert num_groups is not None
    _check_groups(num_groups, channels)
    return nn.GroupNorm(num_groups, channels, eps)


@builder(Family.NORM, "layer")
def layer_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build a `LayerNormChannels`."""
    return LayerNormChannels(channels, eps)


@builder(Family.NORM, "rms")
def rms_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build an `RmsNorm`."""
    return RmsNorm(channels, eps)


@builder(Family.NORM, "simple")
def simple_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build a `SimpleNorm`."""
    return SimpleNorm(channels, eps)


@builder(Family.NORM, "instance")
def instance_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build an InstanceNorm of torch.nn with weight and bias."""
    return layer_class("InstanceNorm", dims)(channels, eps, affine=True)


@builder(Family.NORM, "ibn")
def instance_batch_norm(channels: int, eps: float, momentum: float, dims: int, ratio: float) -> nn.Module:
    """Build an `InstanceBatchNorm` with instance norm on `ratio` of the channels."""
    return InstanceBatchNorm(channels, int(channels * ratio), eps, momentum, dims)


@builder(Family.NORM, "frn")
def filter_response_norm(channels: int, eps: float, momentum: float, dims: int) -> nn.Module:
    """Build a `FilterResponseNorm`."""
    return FilterResponseNorm(channels, eps)


@builder(Family.NORM, "evonorm-s0")
def evonorm_s0(channels: int, eps: float, momentum: float, dims: int, groups: int) -> nn.Module:
    """Build an `EvoNormS0`; raises ValueError for channels that `groups` does not divide."""
    _check_groups(groups, channels)
    return EvoNormS0(channels, groups, eps)


@builder(Family.LAYER, "grn")
def global_response_norm(site: Site) -> nn.Module:
    """Build a `GlobalResponseNorm`."""
    return GlobalResponseNorm(site.channels)
