"""The words of sentences made into modules: conv, norm, act, pools, drops, fc."""

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from reslab.spec.arch import Arch
from reslab.spec.errors import refuse, unknown
from reslab.spec.grammar import Word, parse_words
from reslab.spec.layout import ConvPlan, pool_stride

Padding = Literal["zeros", "reflect", "replicate", "circular"]
PADDINGS: tuple[str, ...] = get_args(Padding)
NormLayer = Callable[[int], nn.Module]

ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


class Bias(nn.Module):
    """x + b with one learned scalar b, from 0 (Zhang, Dauphin and Ma 2019, Fig. 1). Any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Scale(nn.Module):
    """a x with one learned scalar a, from 1 (Zhang, Dauphin and Ma 2019, Fig. 1). Any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class SqueezeExcite(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))), the mean over height and width (Hu, Shen and Sun 2018, Eqs. 2 to 4).

    The inner width is channels * ratio rounded to a multiple of 8, at least 8, as timm has it. N C H W in and out.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inner = max(8, int(channels * ratio + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.fc2(self.act(self.fc1(squeezed))).sigmoid()


def make_conv(plan: ConvPlan, bias: bool, padding_mode: str = "zeros") -> nn.Conv2d:
    """A convolution that keeps height and width up to its stride: padding = dilation (kernel - 1) / 2."""
    if padding_mode not in PADDINGS:
        raise unknown("padding", padding_mode, PADDINGS)
    padding = plan.dilation * (plan.kernel - 1) // 2
    return nn.Conv2d(
        plan.in_channels,
        plan.out_channels,
        plan.kernel,
        plan.stride,
        padding,
        plan.dilation,
        plan.groups,
        bias,
        cast(Padding, padding_mode),
    )


def make_act(name: str) -> nn.Module:
    """A fresh activation module, never in place. ValueError with the nearest names for an unknown one."""
    if name not in ACTS:
        raise unknown("act", name, ACTS)
    return ACTS[name]()


def norm_maker(arch: Arch) -> NormLayer | None:
    """What builds a norm for a number of channels; None where the architecture has none.

    Raises ValueError for an unknown norm or groups that do not divide the channels.
    """
    words = parse_words(arch.norm)
    word = words[0] if len(words) == 1 else Word(arch.norm)
    said = str(word)
    if said == "none":
        return None
    if said == "batch":
        return lambda channels: nn.BatchNorm2d(channels, arch.norm_eps, arch.norm_momentum)
    if said == "frozen":
        return lambda channels: FrozenBatchNorm2d(channels, arch.norm_eps)
    if said.startswith("group(") and len(word.args) == 1 and isinstance(word.args[0], int):
        groups = word.args[0]
        return lambda channels: _group_norm(groups, channels, arch.norm_eps)
    if said == "custom":
        raise refuse(
            "norm_layer=CALLABLE with norm=custom",
            "none given",
            next_step="build it with create_model(..., norm_layer=...)",
        )
    raise unknown("norm", arch.norm, ("batch", "group(32)", "frozen", "none"))


def _group_norm(groups: int, channels: int, eps: float) -> nn.Module:
    if groups < 1 or channels % groups:
        best = max(number for number in range(1, max(groups, 1) + 1) if channels % number == 0)
        raise refuse(f"norm=group(G) with G dividing {channels} channels", f"group({groups})", f"group({best})")
    return nn.GroupNorm(groups, channels, eps)


def make_pool(word: Word) -> nn.Module:
    """`maxpool3/2`: size 3, stride 2, padding 1; `avgpool` without a size pools each map to one number."""
    if word.size is None:
        return nn.AdaptiveAvgPool2d(1) if word.name == "avgpool" else nn.AdaptiveMaxPool2d(1)
    kind = nn.AvgPool2d if word.name == "avgpool" else nn.MaxPool2d
    return kind(word.size, pool_stride(word), (word.size - 1) // 2)


def make_plain_word(word: Word, channels: int, arch: Arch, norm: NormLayer | None) -> nn.Module | None:
    """The module of any word that keeps the number of channels; None for a norm where there are none."""
    rate = float(word.args[0]) if word.args and word.name.startswith("drop") else arch.drop
    makers: dict[str, Callable[[], nn.Module | None]] = {
        "norm": lambda: norm(channels) if norm else None,
        "act": lambda: make_act(str(word.args[0]) if word.args else arch.act),
        "drop": lambda: nn.Dropout(rate),
        "drop2d": lambda: nn.Dropout2d(rate),
        "se": lambda: SqueezeExcite(channels, arch.se_ratio),
        "bias": Bias,
        "scale": Scale,
        "maxpool": lambda: make_pool(word),
        "avgpool": lambda: make_pool(word),
        "flatten": lambda: nn.Flatten(1),
    }
    if word.name not in makers:
        raise unknown("word", word.name, makers)
    return makers[word.name]()
