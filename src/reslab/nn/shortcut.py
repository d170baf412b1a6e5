"""The two joints of a unit: `match` gives the shortcut the branch's shape, `mix` lets the two meet."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.layers import NormLayer, make_conv
from reslab.spec.layout import BlockSpec, ConvSpec
from reslab.spec.shortcut import MergeSpec as MixPlan
from reslab.spec.shortcut import drop_path_rate, survival_probability


class PadChannels(nn.Module):
    """Option A: every `stride`-th row and column, then `before` and `after` channels of zeros (He et al. 2015, Sec.
    4.1).

    N C H W to N (before + C + after) H/stride W/stride; no parameters.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


def make_shortcut(spec: BlockSpec, norm: NormLayer | None, bias: bool) -> nn.Module | None:
    """The shortcut's module; None in a plain twin. `norm` is None where projections are bare."""
    if spec.shortcut == "none":
        return None
    in_channels, out_channels, stride = spec.in_channels, spec.out_channels, spec.stride
    num_added = out_channels - in_channels
    builders: dict[str, Callable[[], nn.Module]] = {
        "identity": nn.Identity,
        "pad": lambda: PadChannels(stride, 0, num_added),
        "pad-split": lambda: PadChannels(stride, num_added // 2, num_added - num_added // 2),
        "avg-pad": lambda: nn.Sequential(_avg_pool(stride, spec.dilation), PadChannels(1, 0, num_added)),
        "conv1x1": lambda: nn.Sequential(_conv1x1(in_channels, out_channels, stride, bias)),
        "project": lambda: _with_norm(_conv1x1(in_channels, out_channels, stride, bias), norm, out_channels),
        "avg-project": lambda: _with_norm(
            _avg_pool(stride, spec.dilation), norm, out_channels, _conv1x1(in_channels, out_channels, 1, bias)
        ),
    }
    return builders[spec.shortcut]()


def _conv1x1(in_channels: int, out_channels: int, stride: int, bias: bool) -> nn.Conv2d:
    return make_conv(ConvSpec(1, in_channels, out_channels, stride), bias)


def _avg_pool(stride: int, dilation: int) -> nn.Module:
    """timm pools with stride 1 where a dilation stands in for the stride; its size-2 pool then needs the maps' size
    kept: no pool here."""
    return nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()


def _with_norm(first: nn.Module, norm: NormLayer | None, channels: int, *rest: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, *rest, *([norm(channels)] if norm else []))


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
    """b x in training, b drawn once a batch from Bernoulli(p); p x at test (Huang et al. 2016, Sec. 3).

    The branch is computed and multiplied, not skipped, so its norms see every batch; the authors' code skips it.
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
    """x b / (1 - p) in training, b drawn once a sample from Bernoulli(1 - p); x at test (Larsson et al. 2017; timm's
    DropPath)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep_probability = 1 - self.rate
        if keep_probability == 0:
            return x * 0
        mask = torch.bernoulli(torch.full((len(x), 1, 1, 1), keep_probability, device=x.device)).to(x.dtype)
        return x * (mask / keep_probability)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Merge(nn.Module):
    """Where shortcut and branch meet: modifiers of each, then one join (see `reslab.spec.shortcut`). N C H W in, out.

    Its keys: `gate.weight`, `gate.bias` (a 1x1 convolution of the unit's stride and width, over what the shortcut
    reads), `scale` (rezero, skipinit) and `gamma` (layerscale).
    """

    def __init__(self, spec: MixPlan, block: BlockSpec) -> None:
        super().__init__()
        self.merge_fn = _MERGE_FNS[spec.op.name]
        args = [float(arg) for arg in spec.op.args]
        self.factors = tuple(args)
        if spec.op.name.endswith("gate"):
            self.gate = nn.Conv2d(block.in_channels, block.out_channels, 1, block.stride)
            self.gate_bias = args[0]
        self.shortcut_modifiers = nn.Sequential(*(nn.Dropout(float(op.args[0])) for op in spec.shortcut_modifiers))
        self.branch_modifiers = nn.Sequential()
        for op in spec.branch_modifiers:
            rate = float(op.args[0]) if op.args else 0.0
            if op.name in ("rezero", "skipinit"):
                self.scale = nn.Parameter(torch.zeros(1))
            elif op.name == "layerscale":
                self.gamma = nn.Parameter(torch.full((block.out_channels,), rate))
            elif op.name == "stochastic-depth":
                self.branch_modifiers.append(
                    StochasticDepthBatch(survival_probability(rate, block.index, block.num_blocks))
                )
            else:
                self.branch_modifiers.append(DropPath(drop_path_rate(rate, block.index, block.num_blocks)))

    @property
    def is_plain_sum(self) -> bool:
        """Whether the shortcut comes through as it is: added, without factor, gate or dropout."""
        return self.merge_fn is _add and len(self.shortcut_modifiers) == 0

    def gate_value(self, block_input: Tensor) -> Tensor:
        """g = sigmoid(W x + b) of the gate, where the join has one."""
        return torch.sigmoid(self.gate(block_input))

    def forward(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        branch = self.branch_modifiers(branch)
        if hasattr(self, "scale"):
            branch = branch * self.scale
        if hasattr(self, "gamma"):
            branch = branch * self.gamma.view(1, -1, 1, 1)
        return self.merge_fn(self, block_input, self.shortcut_modifiers(shortcut), branch)
