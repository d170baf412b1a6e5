"""Attention: modules that weight the channels or the positions of maps. All keep the shape N C H W."""

import math

import torch
from torch import Tensor, nn

from reslab.nn.registry import Site, builder, layer_class, make_activation, map_axes, map_ones
from reslab.spec.operations import Family


class SqueezeExcite(nn.Module):
    """x * sigmoid(W2 act(W1 mean(x))), the mean over height and width (Hu, Shen and Sun 2018, Eqs. 2 to 4)."""

    def __init__(self, channels: int, reduced_channels: int, act: str = "relu", dims: int = 2) -> None:
        super().__init__()
        conv = layer_class("Conv", dims)
        self.fc1 = conv(channels, reduced_channels, 1)
        self.act = make_activation(act)
        self.fc2 = conv(reduced_channels, channels, 1)
        self.axes = tuple(range(2, dims + 2))  # known before an input, so that torch.fx can trace it

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean(self.axes, keepdim=True)
        return x * self.fc2(self.act(self.fc1(squeezed))).sigmoid()


class EfficientChannelAttention(nn.Module):
    """x * sigmoid(conv1d(mean(x))) over the channels (Wang et al. 2020, Eq. 12)."""

    def __init__(self, channels: int, size: int | None = None) -> None:
        super().__init__()
        if size is None:
            nearest = int(abs(math.log2(channels) + 1) / 2)
            size = max(nearest if nearest % 2 else nearest + 1, 3)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv(x.mean(map_axes(x)).unsqueeze(1)).sigmoid()
        return x * weights.view(x.shape[0], -1, *map_ones(x))


class SpatialAttention(nn.Module):
    """x * sigmoid(conv([mean, max])), mean and maximum over the channels (Woo et al. 2018, Eq. 3)."""

    def __init__(self, kernel: int, dims: int = 2) -> None:
        super().__init__()
        conv = layer_class("Conv", dims)
        self.conv = conv(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()


class ConvolutionalBlockAttention(nn.Module):
    """Channel attention sigmoid(mlp(mean(x)) + mlp(max(x))), then spatial attention (Woo et al. 2018, Eqs. 2 and 3)."""

    def __init__(self, channels: int, ratio: float, kernel: int, dims: int = 2) -> None:
        super().__init__()
        conv = layer_class("Conv", dims)
        reduced_channels = max(1, int(channels * ratio))
        self.mlp = nn.Sequential(conv(channels, reduced_channels, 1), nn.ReLU(), conv(reduced_channels, channels, 1))
        self.spatial = SpatialAttention(kernel, dims)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mlp(x.mean(map_axes(x), keepdim=True)) + self.mlp(x.amax(map_axes(x), keepdim=True))
        return self.spatial(x * weights.sigmoid())


class GlobalContext(nn.Module):
    """x + W2 relu(norm(W1 context)), the context sum over positions of softmax(w x) x (Cao et al. 2019, Fig. 4(d))."""

    def __init__(self, channels: int, ratio: float, dims: int = 2) -> None:
        super().__init__()
        conv = layer_class("Conv", dims)
        reduced_channels = max(1, int(channels * ratio))
        self.score = conv(channels, 1, 1)
        self.transform = nn.Sequential(
            conv(channels, reduced_channels, 1),
            nn.GroupNorm(1, reduced_channels),  # a layer norm over the channels of one position
            nn.ReLU(),
            conv(reduced_channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).flatten(2).softmax(2)
        context = (x.flatten(2) * weights).sum(2)
        return x + self.transform(context.view(x.shape[0], -1, *map_ones(x)))


@builder(Family.LAYER, "se")
def squeeze_excite(site: Site, of: str, divisor: int, act: str, ratio: float | None = None) -> nn.Module:
    """Build a `SqueezeExcite`, whose inner width is `ratio` of the channels, rounded to a multiple of `divisor`."""
    ratio = site.arch.se_ratio if ratio is None else ratio
    share = ratio * (site.block.in_channels if of == "in" and site.block is not None else site.channels)
    reduced = round(share) if divisor == 1 else int(share + divisor / 2) // divisor * divisor
    return SqueezeExcite(site.channels, max(divisor, reduced), act, site.arch.dims)


@builder(Family.LAYER, "eca")
def efficient_channel_attention(site: Site, size: int | None = None) -> nn.Module:
    """Build an `EfficientChannelAttention` of `size`, by default the size that the channels give."""
    return EfficientChannelAttention(site.channels, size)


@builder(Family.LAYER, "spatial")
def spatial_attention(site: Site, kernel: int = 7) -> nn.Module:
    """Build a `SpatialAttention` with this kernel size."""
    return SpatialAttention(kernel, site.arch.dims)


@builder(Family.LAYER, "cbam")
def convolutional_block_attention(site: Site, ratio: float = 0.0625, kernel: int = 7) -> nn.Module:
    """Build a `ConvolutionalBlockAttention` with this ratio of channels and this kernel size."""
    return ConvolutionalBlockAttention(site.channels, ratio, kernel, site.arch.dims)


@builder(Family.LAYER, "gc")
def global_context(site: Site, ratio: float = 0.0625) -> nn.Module:
    """Build a `GlobalContext` whose inner width is `ratio` of the channels."""
    return GlobalContext(site.channels, ratio, site.arch.dims)
