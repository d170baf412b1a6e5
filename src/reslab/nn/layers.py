"""Modules for the operations of expressions: convolutions, norms, activations, pools, dropout."""

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import ConvSpec
from reslab.spec.order import pool_stride

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)
NormLayer = Callable[[int], nn.Module]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
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


class SqueezeExcite(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))), the mean over height and width (Hu, Shen and Sun 2018, Eqs. 2 to 4).

    The inner width is channels * ratio rounded to a multiple of 8, at least 8, as in timm. N C H W in and out.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        reduced_channels = max(8, int(channels * ratio + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, reduced_channels, 1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(reduced_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.fc2(self.act(self.fc1(squeezed))).sigmoid()


def make_conv(spec: ConvSpec, bias: bool, padding_mode: str = "zeros") -> nn.Conv2d:
    """Return a convolution that keeps height and width up to its stride: padding = dilation (kernel - 1) / 2."""
    if padding_mode not in PADDING_MODES:
        raise unknown_name("padding", padding_mode, PADDING_MODES)
    return nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel,
        stride=spec.stride,
        padding=spec.dilation * (spec.kernel - 1) // 2,
        dilation=spec.dilation,
        groups=spec.groups,
        bias=bias,
        padding_mode=cast(PaddingMode, padding_mode),
    )


def make_activation(name: str) -> nn.Module:
    """Return a new activation module, never in place. Raises ValueError for an unknown name, with the nearest ones."""
    if name not in ACTIVATIONS:
        raise unknown_name("act", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def get_norm_layer(arch: Arch) -> NormLayer | None:
    """Return a function that builds a norm for a number of channels; None if the architecture has no norms.

    Raises ValueError for an unknown norm; the function raises it for groups that do not divide the channels.
    """
    ops = parse_ops(arch.norm)
    op = ops[0] if len(ops) == 1 else Op(arch.norm)
    text = str(op)
    if text == "none":
        return None
    if text == "batch":
        return lambda channels: nn.BatchNorm2d(channels, arch.norm_eps, arch.norm_momentum)
    if text == "frozen":
        from torchvision.ops import FrozenBatchNorm2d  # here, because torchvision takes a second to import

        return lambda channels: FrozenBatchNorm2d(channels, arch.norm_eps)
    if text.startswith("group(") and len(op.args) == 1 and isinstance(op.args[0], int):
        groups = op.args[0]
        return lambda channels: _group_norm(groups, channels, arch.norm_eps)
    if text == "custom":
        step = "build the network with create_model(..., norm_layer=...)"
        raise invalid("norm_layer=CALLABLE with norm=custom", "no norm_layer", next_step=step)
    raise unknown_name("norm", arch.norm, ("batch", "group(32)", "frozen", "none"))


def _group_norm(groups: int, channels: int, eps: float) -> nn.Module:
    if groups < 1 or channels % groups:
        suggestion = max(divisor for divisor in range(1, max(groups, 1) + 1) if channels % divisor == 0)
        raise invalid(f"norm=group(G) with G dividing {channels} channels", f"group({groups})", f"group({suggestion})")
    return nn.GroupNorm(groups, channels, eps)


def make_pool(op: Op) -> nn.Module:
    """Return a pool: `maxpool3/2` has size 3, stride 2, padding 1; `avgpool` without a size pools the whole map."""
    if op.size is None:
        return nn.AdaptiveAvgPool2d(1) if op.name == "avgpool" else nn.AdaptiveMaxPool2d(1)
    pool_class = nn.AvgPool2d if op.name == "avgpool" else nn.MaxPool2d
    return pool_class(op.size, pool_stride(op), (op.size - 1) // 2)


def make_layer(op: Op, channels: int, arch: Arch, norm: NormLayer | None) -> nn.Module | None:
    """Return the module of an operation that keeps the number of channels; None for a norm if there are no norms."""
    drop_rate = float(op.args[0]) if op.args and op.name.startswith("drop") else arch.drop_rate
    builders: dict[str, Callable[[], nn.Module | None]] = {
        "norm": lambda: norm(channels) if norm else None,
        "act": lambda: make_activation(str(op.args[0]) if op.args else arch.act),
        "drop": lambda: nn.Dropout(drop_rate),
        "drop2d": lambda: nn.Dropout2d(drop_rate),
        "se": lambda: SqueezeExcite(channels, arch.se_ratio),
        "bias": Bias,
        "scale": Scale,
        "maxpool": lambda: make_pool(op),
        "avgpool": lambda: make_pool(op),
        "flatten": lambda: nn.Flatten(1),
    }
    if op.name not in builders:
        raise unknown_name("operation", op.name, builders)
    return builders[op.name]()
