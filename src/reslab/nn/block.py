"""The residual block, and the two joints of it: the shortcut's module and the merge of shortcut and branch.

p = pre(x)
y = post( merge( shortcut(p), branch(p) ) )
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.dims import layer_class, per_channel
from reslab.nn.layers import make_conv, make_layer
from reslab.nn.registry import NormLayer, Site, get_norm_layer
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op
from reslab.spec.layout import BlockSpec, ConvSpec, layout_stages
from reslab.spec.order import NamedOp
from reslab.spec.shortcut import ShortcutKind, drop_path_rate, merge_factors, survival_probability


class PadChannels(nn.Module):
    """Option A: every `stride`-th row and column, with channels of zeros `before` and `after`.

    He et al. 2015, Sec. 4.1. N C H W to N (before + C + after) H/stride W/stride; no parameters. Maps of any dimension.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        strided = x[:, :, :: self.stride] if x.ndim == 3 else x[:, :, :: self.stride, :: self.stride]
        if x.ndim == 5:
            strided = strided[..., :: self.stride]
        return F.pad(strided, (0, 0) * (x.ndim - 2) + (self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


def make_shortcut(spec: BlockSpec, site: Site) -> nn.Module | None:
    """Return the shortcut's module; None in a plain twin."""
    kind = spec.shortcut.kind
    if kind is ShortcutKind.NONE:
        return None
    stride = spec.stride
    num_added = spec.out_channels - spec.in_channels
    builders: dict[ShortcutKind, Callable[[], nn.Module]] = {
        ShortcutKind.IDENTITY: nn.Identity,
        ShortcutKind.PAD: lambda: PadChannels(stride, 0, num_added),
        ShortcutKind.PAD_SPLIT: lambda: PadChannels(stride, num_added // 2, num_added - num_added // 2),
        ShortcutKind.AVG_PAD: lambda: nn.Sequential(_avg_pool(stride, site), PadChannels(1, 0, num_added)),
        ShortcutKind.CONV1X1: lambda: nn.Sequential(_projection(spec, stride, site)),
        ShortcutKind.PROJECT: lambda: nn.Sequential(_projection(spec, stride, site), *_optional_norm(spec, site)),
        ShortcutKind.AVG_PROJECT: lambda: nn.Sequential(
            _avg_pool(stride, site), _projection(spec, 1, site), *_optional_norm(spec, site)
        ),
    }
    return builders[kind]()


def _projection(spec: BlockSpec, stride: int, site: Site) -> nn.Module:
    kernel = spec.shortcut.kernel if stride > 1 else 1
    return make_conv(site, ConvSpec(kernel, spec.in_channels, spec.out_channels, stride), site.arch.bias)


def _avg_pool(stride: int, site: Site) -> nn.Module:
    # timm pools with stride 1 where a dilation replaces the stride, and pads so that the size stays; there is nothing
    # to pool then.
    pool = layer_class("AvgPool", site.arch.dims)
    return pool(2, stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()


def _optional_norm(spec: BlockSpec, site: Site) -> list[nn.Module]:
    return [site.norm(spec.out_channels)] if site.norm and spec.projection_norm else []


MergeFn = Callable[["Merge", Tensor, Tensor, Tensor], Tensor]


def _add(merge: "Merge", block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    return shortcut + branch


def _scaled_add(merge: "Merge", block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    a, b = merge.factors
    return a * shortcut + b * branch


def _gated_add(merge: "Merge", block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    g = merge.gate_value(block_input)
    return (1 - g) * shortcut + g * branch


def _shortcut_gated_add(merge: "Merge", block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    return (1 - merge.gate_value(block_input)) * shortcut + branch


_MERGE_FNS: dict[str, MergeFn] = {
    "add": _add,
    "scale": _scaled_add,
    "gate": _gated_add,
    "shortcut-gate": _shortcut_gated_add,
}


class StochasticDepthBatch(nn.Module):
    """Stochastic depth with one draw per batch (Huang et al. 2016, Sec. 3).

    In training b x with b drawn from Bernoulli(p), in eval mode p x. The branch is computed and multiplied, not
    skipped as in the authors' code, so its norms see every batch.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * self.probability
        return x * torch.bernoulli(torch.full((), self.probability, device=x.device)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"


class DropPath(nn.Module):
    """Stochastic depth with one draw per sample (Larsson et al. 2017; timm's DropPath).

    In training x b / (1 - p) with b drawn from Bernoulli(1 - p), in eval mode x.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep_probability = 1 - self.rate
        if keep_probability == 0:
            return x * 0
        shape = (len(x), *([1] * (x.ndim - 1)))
        mask = torch.bernoulli(torch.full(shape, keep_probability, device=x.device)).to(x.dtype)
        return x * (mask / keep_probability)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Merge(nn.Module):
    """Merge shortcut and branch: modifiers of each path, then one operation (see `reslab.spec.shortcut`).

    N C H W in and out. Parameters: `gate.weight` and `gate.bias` (a 1x1 convolution with the block's stride and width,
    over the block's input), `scale` (rezero, skipinit) and `gamma` (layerscale).
    """

    def __init__(self, block: BlockSpec, dims: int) -> None:
        super().__init__()
        spec = block.merge
        self.merge_fn = _MERGE_FNS[spec.op.name]
        self.factors = merge_factors(spec, block.index + 1, block.num_blocks)
        if spec.op.name.endswith("gate"):
            self.gate = layer_class("Conv", dims)(block.in_channels, block.out_channels, 1, block.stride)
            self.gate_bias = self.factors[0]
        self.shortcut_modifiers = nn.Sequential(*(nn.Dropout(float(op.args[0])) for op in spec.shortcut_modifiers))
        self.branch_modifiers = nn.Sequential()
        for op in spec.branch_modifiers:
            self._add_branch_modifier(op, block)

    def _add_branch_modifier(self, op: Op, block: BlockSpec) -> None:
        value = float(op.args[0]) if op.args else 0.0
        if op.name in ("rezero", "skipinit"):
            self.scale = nn.Parameter(torch.zeros(1))
        elif op.name == "layerscale":
            self.gamma = nn.Parameter(torch.full((block.out_channels,), value))
        elif op.name == "stochastic-depth":
            probability = survival_probability(value, block.index, block.num_blocks)
            self.branch_modifiers.append(StochasticDepthBatch(probability))
        else:
            self.branch_modifiers.append(DropPath(drop_path_rate(value, block.index, block.num_blocks)))

    @property
    def is_plain_sum(self) -> bool:
        """Whether the shortcut is added unchanged: no factor, gate or dropout."""
        return self.merge_fn is _add and len(self.shortcut_modifiers) == 0

    def gate_value(self, block_input: Tensor) -> Tensor:
        """Return the gate g = sigmoid(W x + b). Only for a merge with a gate."""
        return torch.sigmoid(self.gate(block_input))

    def forward(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        branch = self.branch_modifiers(branch)
        if hasattr(self, "scale"):
            branch = branch * self.scale
        if hasattr(self, "gamma"):
            branch = branch * per_channel(self.gamma, branch)
        return self.merge_fn(self, block_input, self.shortcut_modifiers(shortcut), branch)


class ResidualBlock(nn.Module):
    """y = post(merge(shortcut(p), branch(p))) with p = pre(x). N C H W to N C' H/stride W/stride.

    `pre_names`, `branch_names` and `post_names` are the modules of each part, in order. The module of the shortcut is
    `downsample`, as in torchvision. A plain twin has neither `downsample` nor `merge`: y = post(branch(p)).
    """

    def __init__(self, spec: BlockSpec, arch: Arch, norm: NormLayer | None) -> None:
        super().__init__()
        self.spec = spec
        site = Site(arch, spec.in_channels, norm, block=spec)
        pre_ops = () if spec.skip_preact else spec.ops.pre
        self.pre_names = self._add_ops(pre_ops if spec.shared_preact else (), site)
        self.branch_names = self._add_ops((() if spec.shared_preact else pre_ops) + spec.ops.branch, site)
        self.post_names = self._add_ops(spec.ops.post, site)
        self.downsample = make_shortcut(spec, site)
        self.merge = None if self.downsample is None else Merge(spec, arch.dims)

    def _add_ops(self, ops: tuple[NamedOp, ...], site: Site) -> tuple[str, ...]:
        names = []
        for named_op in ops:
            module = self._make_layer(named_op, site)
            if module is not None:
                self.add_module(named_op.name, module)
                names.append(named_op.name)
        return tuple(names)

    def _make_layer(self, named_op: NamedOp, site: Site) -> nn.Module | None:
        convs = self.spec.convs
        if named_op.op.name == "conv":
            kind = str(named_op.op.args[0]) if named_op.op.args else ""
            return make_conv(site, convs[named_op.num_convs - 1], site.arch.bias, kind)
        channels = convs[named_op.num_convs - 1].out_channels if named_op.num_convs else convs[0].in_channels
        return make_layer(named_op.op, site.at(channels))

    def _run_layers(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def pre(self, x: Tensor) -> Tensor:
        """Run the operations ahead of the fork; without any, return x itself."""
        return self._run_layers(self.pre_names, x)

    def branch(self, p: Tensor) -> Tensor:
        """Run the residual function F."""
        return self._run_layers(self.branch_names, p)

    def post(self, y: Tensor) -> Tensor:
        """Run the operations after the merge."""
        return self._run_layers(self.post_names, y)

    def forward(self, x: Tensor) -> Tensor:
        p = self.pre(x)
        y = self.branch(p)
        if self.downsample is not None and self.merge is not None:
            y = self.merge(p, self.downsample(p), y)
        return self.post(y)

    def last_norm(self) -> nn.Module | None:
        """Return the last norm of the branch, ahead of the merge; None without one."""
        norms = [name for name in self.branch_names if name.startswith("bn")]
        return getattr(self, norms[-1]) if norms else None


def Residual(in_channels: int, num_channels: int, use_1x1conv: bool = False, strides: int = 1) -> ResidualBlock:
    """Return the block of Dive into Deep Learning, Sec. 8.6: relu(bn2(conv2(relu(bn1(conv1(x))))) + x).

    With `use_1x1conv`, + conv3(x). Convolutions have a bias, the 1x1 projection (`downsample.0`, the tutorial's
    `conv3`) has no norm, and weights are drawn as in torch.nn. N in_channels H W to N num_channels H/strides W/strides.
    Raises ValueError if the shapes differ and `use_1x1conv` is not set.
    """
    if not use_1x1conv and (in_channels != num_channels or strides != 1):
        got = f"Residual({in_channels}, {num_channels}, use_1x1conv=False, strides={strides})"
        suggestion = f"Residual({in_channels}, {num_channels}, True, {strides})"
        raise invalid("use_1x1conv=True where channels or size change", got, suggestion)
    arch = Arch(
        "residual",
        "Zhang et al., Dive into Deep Learning, Sec. 8.6",
        depths=(1,),
        widths=(num_channels,),
        strides=(strides,),
        shortcut="conv1x1-all" if use_1x1conv else "conv1x1",
        stem="",
        bias=True,
        in_channels=in_channels,
    )
    return ResidualBlock(layout_stages(arch)[0][0], arch, get_norm_layer(arch))
