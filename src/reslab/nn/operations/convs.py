"""Kinds of one convolution: plain, with standardized weights, Dirac; each also with TensorFlow's padding."""

from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.registry import Site, builder
from reslab.spec.errors import unknown_name
from reslab.spec.layout import ConvSpec
from reslab.spec.operations import ACT_GAINS, Family

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)


def pad_same(x: Tensor, kernel: int, stride: int, dilation: int = 1, value: float = 0.0) -> Tensor:
    """Return maps padded so that a window gives ceil(side / stride) positions, as TensorFlow pads."""
    padding = []
    for side in reversed(x.shape[2:]):
        total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding, value=value)


class WeightedConv2d(nn.Conv2d):
    """A convolution whose kernel is a function of its weight, with TensorFlow's padding if `same_padding`."""

    same_padding = False

    def kernel(self) -> Tensor:
        """Return the kernel that is applied."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.same_padding:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0])
        return self._conv_forward(x, self.kernel(), self.bias)


class StandardizedConv2d(WeightedConv2d):
    """Weights with mean 0 and variance 1 in each filter (Qiao et al. 2019, Eq. 6)."""

    eps = 1e-6

    def kernel(self) -> Tensor:
        return _standardize(self.weight, None, self.eps)


class ScaledStandardizedConv2d(WeightedConv2d):
    """gain * gamma / sqrt(fan in) times the standardized weights, one learned gain per filter (Brock et al. 2021)."""

    eps = 1e-6
    gamma = 1.0

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def kernel(self) -> Tensor:
        scale = self.gamma * self.weight[0].numel() ** -0.5
        return _standardize(self.weight, (self.gain * scale).flatten(), self.eps)


def _standardize(weight: Tensor, factor: Tensor | None, eps: float) -> Tensor:
    # The batch norm of one sample standardizes each filter, in one kernel.
    rows = weight.reshape(1, len(weight), -1)
    return F.batch_norm(rows, None, None, factor, None, training=True, momentum=0.0, eps=eps).reshape_as(weight)


class DiracConv2d(WeightedConv2d):
    """diag(a) I + diag(b) W / |W|, with I the identity as a kernel (Zagoruyko and Komodakis 2017, Eqs. 3 and 4).

    `a` starts at 1 and `b` at 0.1, as in the authors' code.
    """

    delta: Tensor

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.a = nn.Parameter(torch.ones(self.out_channels))
        self.b = nn.Parameter(torch.full((self.out_channels,), 0.1))
        delta = nn.init.dirac_(torch.empty(self.weight.shape, device="cpu"), self.groups)
        self.register_buffer("delta", delta, persistent=False)

    def kernel(self) -> Tensor:
        shape = (-1, 1, 1, 1)
        direction = F.normalize(self.weight.flatten(1)).view_as(self.weight)
        return self.a.view(shape) * self.delta.to(self.weight.dtype) + self.b.view(shape) * direction


def _build(conv_class: type[nn.Conv2d], spec: ConvSpec, site: Site, bias: bool) -> nn.Conv2d:
    """Return a convolution that keeps height and width up to its stride; an even kernel has no padding (patches)."""
    padding_mode = site.arch.padding
    if padding_mode not in (*PADDING_MODES, "same"):
        raise unknown_name("padding", padding_mode, (*PADDING_MODES, "same"))
    # Padding on both sides is TensorFlow's wherever the stride is 1.
    same_padding = padding_mode == "same" and spec.stride > 1
    if same_padding and not issubclass(conv_class, WeightedConv2d):
        conv_class = WeightedConv2d
    padding = 0 if same_padding or spec.kernel % 2 == 0 else spec.dilation * (spec.kernel - 1) // 2
    conv = conv_class(
        spec.in_channels,
        spec.out_channels,
        spec.kernel,
        stride=spec.stride,
        padding=padding,
        dilation=spec.dilation,
        groups=spec.groups,
        bias=bias,
        padding_mode="zeros" if padding_mode == "same" else cast(PaddingMode, padding_mode),
    )
    if isinstance(conv, WeightedConv2d):
        conv.same_padding = same_padding
    return conv


@builder(Family.CONV, "plain")
def plain_conv(site: Site, spec: ConvSpec, bias: bool) -> nn.Module:
    return _build(nn.Conv2d, spec, site, bias)


@builder(Family.CONV, "standardized")
def standardized_conv(site: Site, spec: ConvSpec, bias: bool, eps: float) -> nn.Module:
    conv = _build(StandardizedConv2d, spec, site, bias)
    conv.eps = eps  # type: ignore[assignment]
    return conv


@builder(Family.CONV, "scaled-standardized")
def scaled_standardized_conv(site: Site, spec: ConvSpec, bias: bool, gain: str, eps: float) -> nn.Module:
    conv = _build(ScaledStandardizedConv2d, spec, site, bias)
    conv.eps = eps  # type: ignore[assignment]
    if gain == "act":
        if site.arch.act not in ACT_GAINS:
            raise unknown_name("activation with a known gain", site.arch.act, ACT_GAINS, "or scaled-standardized(none)")
        conv.gamma = ACT_GAINS[site.arch.act]  # type: ignore[assignment]
    return conv


@builder(Family.CONV, "dirac")
def dirac_conv(site: Site, spec: ConvSpec, bias: bool) -> nn.Module:
    return _build(DiracConv2d, spec, site, bias)
