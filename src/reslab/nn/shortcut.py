"""The two joints of a unit: `match` gives the shortcut the branch's shape, `mix` lets the two meet."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.layers import NormLayer, make_conv
from reslab.spec.layout import ConvPlan, UnitPlan
from reslab.spec.shortcut import Mix as MixPlan
from reslab.spec.shortcut import drop_path_rate, survival


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


def make_match(plan: UnitPlan, norm: NormLayer | None, bias: bool) -> nn.Module | None:
    """The shortcut's module; None in a plain twin. `norm` is None where projections are bare."""
    if plan.match == "none":
        return None
    inner, out, stride = plan.in_channels, plan.out_channels, plan.stride
    grown = out - inner
    makers: dict[str, Callable[[], nn.Module]] = {
        "identity": nn.Identity,
        "pad": lambda: PadChannels(stride, 0, grown),
        "pad-split": lambda: PadChannels(stride, grown // 2, grown - grown // 2),
        "avg-pad": lambda: nn.Sequential(_average(stride, plan.dilation), PadChannels(1, 0, grown)),
        "conv1x1": lambda: nn.Sequential(_project(inner, out, stride, bias)),
        "project": lambda: _sequence(_project(inner, out, stride, bias), norm, out),
        "avg-project": lambda: _sequence(_average(stride, plan.dilation), norm, out, _project(inner, out, 1, bias)),
    }
    return makers[plan.match]()


def _project(in_channels: int, out_channels: int, stride: int, bias: bool) -> nn.Conv2d:
    return make_conv(ConvPlan(1, in_channels, out_channels, stride), bias)


def _average(stride: int, dilation: int) -> nn.Module:
    """timm pools with stride 1 where a dilation stands in for the stride; its size-2 pool then needs the maps' size
    kept: no pool here."""
    return nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()


def _sequence(first: nn.Module, norm: NormLayer | None, channels: int, *then: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, *then, *([norm(channels)] if norm else []))


Join = Callable[["Mix", Tensor, Tensor, Tensor], Tensor]


def _add(mix: "Mix", read: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    return shortcut + branch


def _scaled(mix: "Mix", read: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    a, b = mix.factors
    return a * shortcut + b * branch


def _gated(mix: "Mix", read: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    g = mix.openness(read)
    return (1 - g) * shortcut + g * branch


def _shortcut_gated(mix: "Mix", read: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
    return (1 - mix.openness(read)) * shortcut + branch


_JOINS: dict[str, Join] = {"add": _add, "scale": _scaled, "gate": _gated, "shortcut-gate": _shortcut_gated}


class Survive(nn.Module):
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
        kept = 1 - self.rate
        if kept == 0:
            return x * 0
        drawn = torch.bernoulli(torch.full((len(x), 1, 1, 1), kept, device=x.device)).to(x.dtype)
        return x * (drawn / kept)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Mix(nn.Module):
    """Where shortcut and branch meet: modifiers of each, then one join (see `reslab.spec.shortcut`). N C H W in, out.

    Its keys: `gate.weight`, `gate.bias` (a 1x1 convolution of the unit's stride and width, over what the shortcut
    reads), `scale` (rezero, skipinit) and `gamma` (layerscale).
    """

    def __init__(self, mix: MixPlan, plan: UnitPlan) -> None:
        super().__init__()
        self.join = _JOINS[mix.join.name]
        arguments = [float(arg) for arg in mix.join.args]
        self.factors = tuple(arguments)
        if mix.join.name.endswith("gate"):
            self.gate = nn.Conv2d(plan.in_channels, plan.out_channels, 1, plan.stride)
            self.gate_bias = arguments[0]
        self.on_shortcut = nn.Sequential(*(nn.Dropout(float(word.args[0])) for word in mix.on_shortcut))
        self.on_branch = nn.Sequential()
        for word in mix.on_branch:
            rate = float(word.args[0]) if word.args else 0.0
            if word.name in ("rezero", "skipinit"):
                self.scale = nn.Parameter(torch.zeros(1))
            elif word.name == "layerscale":
                self.gamma = nn.Parameter(torch.full((plan.out_channels,), rate))
            elif word.name == "survive":
                self.on_branch.append(Survive(survival(rate, plan.index, plan.num_units)))
            else:
                self.on_branch.append(DropPath(drop_path_rate(rate, plan.index, plan.num_units)))

    @property
    def plain_sum(self) -> bool:
        """Whether the shortcut comes through as it is: added, without factor, gate or dropout."""
        return self.join is _add and len(self.on_shortcut) == 0

    def openness(self, read: Tensor) -> Tensor:
        """g = sigmoid(W x + b) of the gate, where the join has one."""
        return torch.sigmoid(self.gate(read))

    def forward(self, read: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        branch = self.on_branch(branch)
        if hasattr(self, "scale"):
            branch = branch * self.scale
        if hasattr(self, "gamma"):
            branch = branch * self.gamma.view(1, -1, 1, 1)
        return self.join(self, read, self.on_shortcut(shortcut), branch)
