"""The shortcut's module: how it gets the branch's shape (`reslab.spec.shortcut.SHORTCUTS`)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.registry import Site, call_with_context, describe, layer_class, make_conv
from reslab.spec.arch import ConvSpec
from reslab.spec.grammar import signature_params
from reslab.spec.layout import BlockSpec
from reslab.spec.shortcut import SHORTCUTS, ShortcutType

ShortcutBuilder = Callable[..., nn.Module | None]
SHORTCUT_BUILDERS: dict[str, ShortcutBuilder] = {}
_CONTEXT = ("block", "site")


def shortcut_builder(name: str) -> Callable[[ShortcutBuilder], ShortcutBuilder]:
    """Return a decorator that adds the function of a built-in shortcut."""

    def add(function: ShortcutBuilder) -> ShortcutBuilder:
        SHORTCUT_BUILDERS[name] = function
        return function

    return add


def register_shortcut(
    name: str,
    *,
    reference: str = "",
    description: str = "",
    has_weights: bool = False,
    pads: bool = False,
    on_every_block: bool = False,
) -> Callable[[ShortcutBuilder], ShortcutBuilder]:
    """Return a decorator that registers a shortcut for the axis `shortcut`.

    The function takes the block (`reslab.spec.layout.BlockSpec`), the place (`Site`) and arguments of its own, and
    returns the module that gives the shortcut the branch's shape. `has_weights`, `pads` and `on_every_block` are those
    of `reslab.spec.shortcut.ShortcutType`; the description is by default the function's docstring. Raises ValueError
    for a name that is taken.
    """

    def register(function: ShortcutBuilder) -> ShortcutBuilder:
        shortcut = ShortcutType(
            name,
            description or describe(function),
            reference,
            has_weights=has_weights,
            pads=pads,
            on_every_block=on_every_block,
            params=signature_params(function, _CONTEXT),
        )
        SHORTCUTS.register(name, shortcut, function)
        SHORTCUT_BUILDERS[name] = function
        return function

    return register


def make_shortcut(block: BlockSpec, site: Site) -> nn.Module | None:
    """Return the shortcut's module; None in a plain twin."""
    if block.shortcut is None:
        return None
    builder = SHORTCUT_BUILDERS[block.shortcut.builder]
    module: nn.Module | None = call_with_context(builder, {"block": block, "site": site}, block.shortcut.args)
    return module


class PadChannels(nn.Module):
    """Option A: every `stride`-th row and column, with channels of zeros `before` and `after`.

    He et al. 2015, Sec. 4.1. N C H W to N (before + C + after) H/stride W/stride; no parameters. Maps of any dimension.
    """

    def __init__(self, stride: int, before: int, after: int, dims: int = 2) -> None:
        super().__init__()
        self.stride, self.before, self.after, self.dims = stride, before, after, dims

    def forward(self, x: Tensor) -> Tensor:
        strided = x[(slice(None), slice(None), *([slice(None, None, self.stride)] * self.dims))]
        return F.pad(strided, (0, 0) * self.dims + (self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class ShiftProject(nn.Module):
    """Two strided 1x1 convolutions side by side, the second of the map shifted by one position, and a norm.

    The map moves down and right, and zeros follow, so that with a stride of 2 each convolution sees other positions.
    N C H W to N C' H/stride W/stride: C' // 2 channels from `conv1`, which reads the map itself, the rest from `conv2`.
    Source: github.com/xgastaldi/shake-shake, models/shakeshakeblock.lua.
    """

    def __init__(self, block: BlockSpec, site: Site) -> None:
        super().__init__()
        half, arch = block.out_channels // 2, site.arch
        self.dims = arch.dims
        self.conv1 = make_conv(site, ConvSpec(1, block.in_channels, half, block.stride), arch.bias)
        self.conv2 = make_conv(site, ConvSpec(1, block.in_channels, block.out_channels - half, block.stride), arch.bias)
        norms = optional_norm(block, site)
        self.bn = norms[0] if norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shifted = F.pad(x, (1, -1) * self.dims)
        y: Tensor = self.bn(torch.cat((self.conv1(x), self.conv2(shifted)), 1))
        return y


@shortcut_builder("shift-project")
def shift_project(block: BlockSpec, site: Site) -> nn.Module:
    """Build a `ShiftProject`."""
    return ShiftProject(block, site)


@shortcut_builder("identity")
def identity(block: BlockSpec, site: Site) -> nn.Module | None:
    """Build the identity; None for a block that changes the shape."""
    return None if block.changes_path else nn.Identity()


@shortcut_builder("pad")
def pad(block: BlockSpec, site: Site) -> nn.Module:
    """Build a subsampling that adds zero channels at the end (option A of He et al. 2015)."""
    return PadChannels(block.stride, 0, block.out_channels - block.in_channels, site.arch.dims)


@shortcut_builder("pad-split")
def pad_split(block: BlockSpec, site: Site) -> nn.Module:
    """Build a subsampling that adds half of the zero channels at each end."""
    num_added = block.out_channels - block.in_channels
    return PadChannels(block.stride, num_added // 2, num_added - num_added // 2, site.arch.dims)


@shortcut_builder("avg-pad")
def average_and_pad(block: BlockSpec, site: Site) -> nn.Module:
    """Build an average pool that adds zero channels at the end."""
    return nn.Sequential(
        _avg_pool(block, site), PadChannels(1, 0, block.out_channels - block.in_channels, site.arch.dims)
    )


@shortcut_builder("conv1x1")
def conv1x1(block: BlockSpec, site: Site) -> nn.Module:
    """Build a 1x1 convolution without a norm."""
    return nn.Sequential(_projection(block, block.stride, site))


@shortcut_builder("project")
def project(block: BlockSpec, site: Site, kernel: int = 1) -> nn.Module:
    """Build a convolution, where it has a stride of size `kernel`, and the norm of the order (option B)."""
    return nn.Sequential(_projection(block, block.stride, site, kernel), *optional_norm(block, site))


@shortcut_builder("avg-project")
def average_and_project(block: BlockSpec, site: Site) -> nn.Module:
    """Build an average pool, a 1x1 convolution and the norm of the order (ResNet-D)."""
    return nn.Sequential(_avg_pool(block, site), _projection(block, 1, site), *optional_norm(block, site))


def _projection(block: BlockSpec, stride: int, site: Site, strided_kernel: int = 1) -> nn.Module:
    kernel = strided_kernel if stride > 1 else 1
    return make_conv(site, ConvSpec(kernel, block.in_channels, block.out_channels, stride), site.arch.bias)


class AveragePoolSame(nn.Module):
    """Means of 2 positions a side with stride 1, zeros after the last position, as timm's AvgPool2dSame.

    N C H W to N C H W; no parameters. It stands where a dilation replaces the stride.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims, self.pool = dims, layer_class("AvgPool", dims)(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(F.pad(x, (0, 1) * self.dims))
        return pooled


def _avg_pool(block: BlockSpec, site: Site) -> nn.Module:
    if block.stride != 1:
        pool: nn.Module = layer_class("AvgPool", site.arch.dims)(
            2, block.stride, ceil_mode=True, count_include_pad=False
        )
        return pool
    return nn.Identity() if block.next_dilation == 1 else AveragePoolSame(site.arch.dims)


def optional_norm(block: BlockSpec, site: Site) -> list[nn.Module]:
    """Return the norm of a projection: none without norms, or where the order has none there."""
    return [site.norm(block.out_channels)] if site.norm and block.projection_norm else []
