"""Kinds of one convolution: plain, with standardized weights, Dirac; each also with TensorFlow's padding."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from reslab.nn.registry import Site, builder, layer_class
from reslab.spec.arch import ConvSpec
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.operations import ACT_GAINS, Family

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@torch.fx.wrap  # the padding depends on the size
def pad_same(x: Tensor, kernel: int, stride: int, dilation: int = 1, value: float = 0.0) -> Tensor:
    """Return maps padded so that a window gives ceil(side / stride) positions, as TensorFlow pads."""
    padding = []
    for side in reversed(x.shape[2:]):
        total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding, value=value)


class _WeightedConv(nn.Module):
    """A convolution whose kernel is a function of its weight, with TensorFlow's padding if `same_padding`.

    Mixed into `nn.Conv1d`, `nn.Conv2d` and `nn.Conv3d`: see `WEIGHTED_CONVS`.
    """

    same_padding = False
    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def kernel(self) -> Tensor:
        """Return the kernel that is applied."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.same_padding:
            x = pad_same(x, self.kernel_size[0], self.stride[0], self.dilation[0])
        return self._conv_forward(x, self.kernel(), self.bias)  # type: ignore[operator]


class _Standardized(_WeightedConv):
    """Weights with mean 0 and variance 1 in each filter (Qiao et al. 2019, Eq. 6)."""

    eps = 1e-6

    def kernel(self) -> Tensor:
        return _standardize(self.weight, None, self.eps)


class _ScaledStandardized(_WeightedConv):
    """gain * gamma / sqrt(fan in) times the standardized weights, one learned gain per filter (Brock et al. 2021)."""

    eps = 1e-6
    gamma = 1.0

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(len(self.weight), *([1] * (self.weight.ndim - 1))))

    def kernel(self) -> Tensor:
        scale = self.gamma * self.weight[0].numel() ** -0.5
        return _standardize(self.weight, (self.gain * scale).flatten(), self.eps)


def _standardize(weight: Tensor, factor: Tensor | None, eps: float) -> Tensor:
    # The batch norm of one sample standardizes each filter, in one kernel.
    rows = weight.reshape(1, weight.shape[0], -1)
    return F.batch_norm(rows, None, None, factor, None, training=True, momentum=0.0, eps=eps).reshape_as(weight)


class _Dirac(_WeightedConv):
    """diag(a) I + diag(b) W / |W|, with I the identity as a kernel (Zagoruyko and Komodakis 2017, Eqs. 3 and 4).

    `a` starts at 1 and `b` at 0.1, as in the authors' code.
    """

    delta: Tensor

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.a = nn.Parameter(torch.ones(len(self.weight)))
        self.b = nn.Parameter(torch.full((len(self.weight),), 0.1))
        self.register_buffer("delta", self._identity(), persistent=False)

    def _identity(self) -> Tensor:
        return nn.init.dirac_(torch.empty(self.weight.shape, device="cpu"), self.groups)

    def reset_buffers(self) -> None:
        """Compute the identity again, after `to_empty` has left it without values."""
        self.delta.copy_(self._identity())

    def kernel(self) -> Tensor:
        shape = (-1, 1, *([1] * len(self.kernel_size)))
        direction = F.normalize(self.weight.flatten(1)).view_as(self.weight)
        return self.a.view(shape) * self.delta.to(self.weight.dtype) + self.b.view(shape) * direction


class _Whitened(_WeightedConv):
    """Frozen filters v / sqrt(lambda + eps) and their negatives, which whiten the patches of training images.

    lambda and v are the greatest eigenvalues, with their eigenvectors, of the mean of p p^T over all patches p
    (channels times kernel sides) of the images. Half of the filters are these, the others the same with a minus sign.
    `fit_input` computes them; before it, they are random. The bias is learned.
    """

    eps = 5e-4
    is_fitted = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.weight.requires_grad_(False)
        limit = 2 * self.weight[0].numel()
        if self.groups != 1 or set(self.dilation) != {1}:
            got = f"groups={self.groups}, dilation={self.dilation[0]}"
            raise invalid("one group and no dilation for a whitened convolution", got)
        if len(self.weight) % 2 or len(self.weight) > limit:
            required = f"an even number of at most {limit} filters for a whitened convolution of this kernel"
            raise invalid(required, f"{len(self.weight)} filters", str(max(2, min(limit, len(self.weight) // 2 * 2))))

    @torch.no_grad()
    def fit_input(self, inputs: Iterable[Tensor]) -> None:
        """Compute the filters from inputs (N, C, ...), of which one at a time is in memory."""
        num_filters, channels, *kernel_size = self.weight.shape
        # In float64: sums over up to a million patches, and eigenvalues that differ by a factor of a thousand.
        covariance = torch.zeros((self.weight[0].numel(),) * 2, dtype=torch.float64, device=self.weight.device)
        num_patches = 0
        for images in inputs:
            patches = images.double()
            for dim, size in enumerate(kernel_size, 2):
                patches = patches.unfold(dim, size, 1)
            patches = patches.movedim(1, len(kernel_size) + 1).reshape(-1, len(covariance))
            covariance += patches.T @ patches
            num_patches += len(patches)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance / num_patches)
        filters = (eigenvectors * (eigenvalues.clamp(min=0) + self.eps).rsqrt()).T.flip(0)[: num_filters // 2]
        # The sign of an eigenvector is arbitrary: its largest entry is made positive.
        filters = filters * filters.gather(1, filters.abs().argmax(1, keepdim=True)).sign()
        self.weight.copy_(torch.cat((filters, -filters)).reshape(num_filters, channels, *kernel_size))
        self.is_fitted = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_fitted = True


def _weighted_classes() -> dict[tuple[str, int], type[nn.Module]]:
    """Return the class of each kind for maps of 1, 2 and 3 dimensions; named attributes of the module, for pickle."""
    mixins = {"": _WeightedConv, "Standardized": _Standardized, "ScaledStandardized": _ScaledStandardized}
    classes: dict[tuple[str, int], type[nn.Module]] = {}
    for kind, mixin in (mixins | {"Dirac": _Dirac, "Whitened": _Whitened}).items():
        for dims in (1, 2, 3):
            name = f"{kind or 'Weighted'}Conv{dims}d"
            bases = (mixin, layer_class("Conv", dims))
            classes[kind, dims] = type(name, bases, {"__module__": __name__, "__doc__": mixin.__doc__})
            globals()[name] = classes[kind, dims]
    return classes


WEIGHTED_CONVS = _weighted_classes()


def _build(kind: str, spec: ConvSpec, site: Site, bias: bool) -> nn.Module:
    """Return a convolution that keeps the sides up to its stride; an even kernel has no padding (patches)."""
    dims, padding_mode = site.arch.dims, site.arch.padding
    if padding_mode not in (*PADDING_MODES, "same"):
        raise unknown_name("padding", padding_mode, (*PADDING_MODES, "same"))
    # Padding on both sides is TensorFlow's wherever the stride is 1 and the kernel odd.
    same_padding = spec.keeps_size or (padding_mode == "same" and spec.stride > 1)
    kernels = spec.kernels or (spec.kernel,) * dims
    if len(kernels) != dims or len(spec.strides or kernels) != dims:
        got = "x".join(map(str, spec.kernels or spec.strides))
        raise invalid(f"a kernel with {dims} side{'s' if dims > 1 else ''}, as dims={dims} says", got, str(spec.kernel))
    padding = tuple(0 if same_padding or kernel % 2 == 0 else spec.dilation * (kernel - 1) // 2 for kernel in kernels)
    is_weighted = kind != "plain" or same_padding
    conv_class = WEIGHTED_CONVS["" if kind == "plain" else kind, dims] if is_weighted else layer_class("Conv", dims)
    conv: nn.Module = conv_class(
        spec.in_channels,
        spec.out_channels,
        kernels,
        stride=spec.strides or spec.stride,
        padding=padding,
        dilation=spec.dilation,
        groups=spec.groups,
        bias=bias,
        padding_mode="zeros" if padding_mode == "same" else padding_mode,
    )
    if is_weighted:
        conv.same_padding = same_padding  # type: ignore[assignment]
    return conv


@builder(Family.CONV, "plain")
def plain_conv(site: Site, spec: ConvSpec, bias: bool) -> nn.Module:
    """Build a convolution of torch.nn."""
    return _build("plain", spec, site, bias)


@builder(Family.CONV, "standardized")
def standardized_conv(site: Site, spec: ConvSpec, bias: bool, eps: float) -> nn.Module:
    """Build a convolution with standardized weights."""
    conv = _build("Standardized", spec, site, bias)
    conv.eps = eps  # type: ignore[assignment]
    return conv


@builder(Family.CONV, "scaled-standardized")
def scaled_standardized_conv(site: Site, spec: ConvSpec, bias: bool, gain: str, eps: float) -> nn.Module:
    """Build a convolution with scaled standardized weights; raises ValueError if the activation has no known gain."""
    conv = _build("ScaledStandardized", spec, site, bias)
    conv.eps = eps  # type: ignore[assignment]
    if gain == "act":
        if site.arch.act not in ACT_GAINS:
            raise unknown_name("activation with a known gain", site.arch.act, ACT_GAINS, "or scaled-standardized(none)")
        conv.gamma = ACT_GAINS[site.arch.act]  # type: ignore[assignment]
    return conv


@builder(Family.CONV, "dirac")
def dirac_conv(site: Site, spec: ConvSpec, bias: bool) -> nn.Module:
    """Build a convolution with Dirac-parameterized weights."""
    return _build("Dirac", spec, site, bias)


@builder(Family.CONV, "whitened")
def whitened_conv(site: Site, spec: ConvSpec, bias: bool, eps: float) -> nn.Module:
    """Build a convolution whose filters whiten patches; raises ValueError for more filters than there can be."""
    conv = _build("Whitened", spec, site, True)
    conv.eps = eps  # type: ignore[assignment]
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
