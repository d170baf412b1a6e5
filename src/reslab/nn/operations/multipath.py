"""Kinds of convolution that hold several paths: Res2Net's hierarchy, selective kernels, split attention."""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn

from reslab.nn.registry import Site, builder, layer_class, make_activation, map_axes, map_ones
from reslab.spec.arch import ConvSpec
from reslab.spec.errors import invalid
from reslab.spec.grammar import divisible
from reslab.spec.operations import Family


def _conv(site: Site, spec: ConvSpec, bias: bool) -> nn.Module:
    padding = spec.dilation * (spec.kernel - 1) // 2
    conv: nn.Module = layer_class("Conv", site.arch.dims)(
        spec.in_channels,
        spec.out_channels,
        spec.kernel,
        spec.stride,
        padding,
        spec.dilation,
        spec.groups,
        bias,
    )
    return conv


def _norm(site: Site, channels: int) -> nn.Module:
    return site.norm(channels) if site.norm else nn.Identity()


class HierarchicalConv(nn.Module):
    """y_i = act(norm(conv(x_i + y_(i-1)))) for the first parts of the channels, the last part unchanged (Res2Net).

    In a block that changes the shape the parts are independent, and the last one is average-pooled (Gao et al. 2019,
    Eq. 1 and the authors' code). N C H W to N C H/stride W/stride.
    """

    def __init__(self, site: Site, spec: ConvSpec, scales: int, bias: bool) -> None:
        super().__init__()
        self.width = spec.in_channels // scales
        self.num_parts = scales
        self.is_chain = site.block is None or not site.block.changes_path
        part = replace(spec, in_channels=self.width, out_channels=self.width)
        num_convs = max(1, scales - 1)
        self.convs = nn.ModuleList(_conv(site, part, bias) for _ in range(num_convs))
        self.bns = nn.ModuleList(_norm(site, self.width) for _ in range(num_convs))
        self.act = make_activation(site.arch.act)
        self.pool = nn.Identity() if self.is_chain else layer_class("AvgPool", site.arch.dims)(3, spec.stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.width, 1)
        outputs: list[Tensor] = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            outputs.append(self.act(bn(conv(outputs[-1] + parts[i] if outputs and self.is_chain else parts[i]))))
        if self.num_parts > 1:
            outputs.append(self.pool(parts[self.num_parts - 1]))
        return torch.cat(outputs, 1)


class _KernelAttention(nn.Module):
    """softmax over the paths of W2 act(norm(W1 mean(sum of the paths))); N P C H W to N P C 1 1."""

    def __init__(self, site: Site, channels: int, paths: int, reduced_channels: int) -> None:
        super().__init__()
        self.paths = paths
        conv = layer_class("Conv", site.arch.dims)
        self.fc_reduce = conv(channels, reduced_channels, 1, bias=False)
        self.bn = _norm(site, reduced_channels)
        self.act = make_activation(site.arch.act)
        self.fc_select = conv(reduced_channels, channels * paths, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.sum(1).mean(map_axes(x[:, 0]), keepdim=True)
        scores = self.fc_select(self.act(self.bn(self.fc_reduce(squeezed))))
        return scores.unflatten(1, (self.paths, -1)).softmax(1)


class SelectiveKernelConv(nn.Module):
    """Convolutions of dilation 1, 2, ... weighted per channel by attention over the paths (Li et al. 2019, Sec. 3.1).

    With `split_input` each path reads its share of the channels. N C H W to N C' H/stride W/stride.
    """

    def __init__(
        self, site: Site, spec: ConvSpec, paths: int, split_input: bool, reduced_channels: int, bias: bool
    ) -> None:
        super().__init__()
        self.split_size = spec.in_channels // paths if split_input else 0
        in_channels = self.split_size or spec.in_channels
        self.paths = nn.ModuleList()
        for number in range(1, paths + 1):
            conv = replace(spec, in_channels=in_channels, dilation=spec.dilation * number)
            layers = {"conv": _conv(site, conv, bias), "bn": _norm(site, spec.out_channels)}
            self.paths.append(nn.Sequential(OrderedDict(layers | {"act": make_activation(site.arch.act)})))
        self.attn = _KernelAttention(site, spec.out_channels, paths, reduced_channels)

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.split(self.split_size, 1) if self.split_size else (x,) * len(self.paths)
        outputs = torch.stack([path(inputs[i]) for i, path in enumerate(self.paths)], 1)
        return (outputs * self.attn(outputs)).sum(1)


class SplitAttentionConv(nn.Module):
    """A grouped convolution into `radix` sets of channels, weighted by attention over the sets (Zhang et al. 2020).

    N C H W to N C' H/stride W/stride.
    """

    def __init__(self, site: Site, spec: ConvSpec, radix: int, ratio: float, bias: bool) -> None:
        super().__init__()
        self.radix, self.groups = radix, spec.groups
        num_channels = spec.out_channels * radix
        reduced_channels = int(max(32, divisible(spec.in_channels * radix * ratio)))
        self.conv = _conv(site, replace(spec, out_channels=num_channels, groups=spec.groups * radix), bias)
        self.bn0 = _norm(site, num_channels)
        self.act = make_activation(site.arch.act)
        conv = layer_class("Conv", site.arch.dims)
        self.fc1 = conv(spec.out_channels, reduced_channels, 1, groups=spec.groups)
        self.bn1 = _norm(site, reduced_channels)
        self.fc2 = conv(reduced_channels, num_channels, 1, groups=spec.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn0(self.conv(x)))
        num_images = x.shape[0]
        sets = x.unflatten(1, (self.radix, -1))
        scores = self.fc2(self.act(self.bn1(self.fc1(sets.sum(1).mean(map_axes(x), keepdim=True)))))
        if self.radix == 1:
            return x * scores.sigmoid()
        weights = scores.view(num_images, self.groups, self.radix, -1).transpose(1, 2).softmax(1)
        return (sets * weights.reshape(num_images, self.radix, -1, *map_ones(x))).sum(1)


@builder(Family.CONV, "res2")
def hierarchical_conv(site: Site, spec: ConvSpec, bias: bool, scales: int) -> nn.Module:
    """Build a `HierarchicalConv`; raises ValueError for channels that `scales` does not divide."""
    if spec.in_channels % scales or spec.in_channels != spec.out_channels:
        got = f"{spec.in_channels} -> {spec.out_channels} channels"
        raise invalid(f"conv(res2({scales})) with as many output as input channels, divisible by {scales}", got)
    return HierarchicalConv(site, spec, scales, bias)


@builder(Family.CONV, "select")
def selective_kernel_conv(
    site: Site, spec: ConvSpec, bias: bool, paths: int, input: str, ratio: float, divisor: int
) -> nn.Module:
    """Build a `SelectiveKernelConv`; raises ValueError for channels that cannot be split into `paths`."""
    if input == "split" and spec.in_channels % paths:
        raise invalid(f"channels divisible by {paths} paths", spec.in_channels, "select(2)")
    reduced_channels = int(divisible(spec.out_channels * ratio, divisor))
    return SelectiveKernelConv(site, spec, paths, input == "split", reduced_channels, bias)


@builder(Family.CONV, "split")
def split_attention_conv(site: Site, spec: ConvSpec, bias: bool, radix: int, ratio: float) -> nn.Module:
    """Build a `SplitAttentionConv`."""
    return SplitAttentionConv(site, spec, radix, ratio, bias)
