"""Convolutions that training steps compute in another way: as products of matrices for speed, in float32 where needed.

On a map of 3x3 a third of the products of a 3x3 kernel meet nothing but padding, and the direct convolution reads wide
kernels once for every few positions. A tap is one entry of the kernel, a matrix (out channels, in channels):

    y[n, i, j] = sum over taps (a, b) of  W[a, b] x[n, stride*i + a - padding, stride*j + b - padding]

where a tap contributes only at positions whose input lies inside the map. The gradients are sums over the same taps.

A convolution of one to a few input channels leaves the matrix units of a GPU mostly idle, because libraries pad the
channels to 8. The product of the patches with the weights has no such loss:

    y = P W^T        P (N H' W', channels x height x width of the kernel), W (out channels, the same)

torch.compile writes P in one pass. It is as large as the patches, so that only small ones pay.

In bfloat16 on a CPU oneDNN is wrong on some narrow maps (torch 2.14.1, AVX-512 with bf16), which run in float32:

* narrower than the stride, such as a width of 1 at stride 2: the gradient of the weights has values of memory that
  nothing has written;
* as wide as the stride without padding, such as patches of 4x4 in a map 4 wide: in channels-last the output has nothing
  to do with the convolution.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


@contextlib.contextmanager
def _exchange_classes(modules: list[Any], exchange: Callable[[type], type]) -> Iterator[None]:
    """Inside, each module is of the class that `exchange` gives for its own."""
    own_classes = [type(module) for module in modules]
    for module, own_class in zip(modules, own_classes, strict=True):
        module.__class__ = exchange(own_class)
    try:
        yield
    finally:
        for module, own_class in zip(modules, own_classes, strict=True):
            module.__class__ = own_class


def _plain_convs(model: nn.Module) -> Iterator[nn.Conv2d]:
    """Yield each `nn.Conv2d` without groups and dilation, padded with a number of zeros."""
    return (module for module in model.modules() if type(module) is nn.Conv2d and _is_plain(module))


def _conv_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a convolution of x is computed: that of autocast, which leaves float64 as it is."""
    device = x.device.type
    is_cast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if is_cast else x.dtype


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def _output_sides(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[int, int]:
    """Return height and width of the convolution of x (N, C, H, W) with a kernel (height, width)."""
    height, width = ((x.shape[2 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1))
    return height, width


MIN_CHANNELS, CHANNELS_PER_POSITION = 128, 16
"""The rule: at least 128 channels on either side, and at least 16 for each position of the output map.

Measured with 64 images on one thread of a Xeon with AVX-512, float32, forward and backward, against oneDNN's
convolution: 512 channels on 4x4 maps 1.8 times as fast, on 3x3 2.7, on 1x1 17; 256 on 4x4 1.3. Outside the rule, with
128 images: 128 channels on 3x3 1.06, 512 on 6x6 1.02, 256 on 6x6 0.89.
"""


@contextlib.contextmanager
def tap_convs(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Run convolutions of tiny maps tap by tap inside the context: for a CPU; faster only in channels-last.

    Outputs and gradients equal the direct convolution's up to the rounding of the precision, float32 or bfloat16.
    """
    convs = [conv for conv in _plain_convs(model) if _suits_taps(conv)] if enabled else []
    with _exchange_classes(convs, lambda own_class: _TapConv2d):
        yield


def _suits_taps(conv: nn.Conv2d) -> bool:
    return (
        min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
        and math.prod(conv.kernel_size) > 1
        and conv.weight.is_contiguous(memory_format=torch.channels_last)
    )


class _TapConv2d(nn.Conv2d):
    """A convolution that chooses tap by tap or direct by the size of its maps."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = _conv_dtype(input)
        assert not isinstance(self.padding, str)
        sides = _output_sides(input, self.kernel_size, self.stride, self.padding)
        is_tiny = 0 < CHANNELS_PER_POSITION * sides[0] * sides[1] <= min(self.weight.shape[:2])
        if is_tiny and dtype in (torch.float32, torch.bfloat16):
            output: Tensor = _TapConv.apply(input.to(dtype), weight.to(dtype), self.stride, self.padding, sides)
            return output if bias is None else output + bias.to(dtype).view(-1, 1, 1)
        return super()._conv_forward(input, weight, bias)


Range = tuple[slice, slice]
"""The outputs that a tap reaches along one axis, and the inputs that it reads for them."""


@cache
def _axis_ranges(in_side: int, out_side: int, kernel: int, stride: int, padding: int) -> tuple[tuple[int, Range], ...]:
    """Return the range of every tap that meets the input at all, along one axis."""
    ranges = []
    for tap in range(kernel):
        offset = tap - padding
        first = max(0, -(offset // stride))  # the smallest i with stride*i + offset >= 0
        last = min(out_side - 1, (in_side - 1 - offset) // stride)
        if first <= last:
            read = slice(first * stride + offset, last * stride + offset + 1, stride)
            ranges.append((tap, (slice(first, last + 1), read)))
    return tuple(ranges)


def _taps(
    x: Tensor, kernel: torch.Size, stride: tuple[int, int], padding: tuple[int, int], sides: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, ...], tuple[slice, ...]]]:
    """Yield every tap (a, b) that meets the maps x (N, H, W, C), with the index of its outputs and of its inputs."""
    axes = [_axis_ranges(x.shape[axis + 1], sides[axis], kernel[axis], stride[axis], padding[axis]) for axis in (0, 1)]
    for a, (out_rows, in_rows) in axes[0]:
        for b, (out_columns, in_columns) in axes[1]:
            yield a, b, (slice(None), out_rows, out_columns), (slice(None), in_rows, in_columns)


class _TapConv(torch.autograd.Function):
    """The sum over the taps. Sums are kept in float32, so that bfloat16 rounds each product and the result only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        sides: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, sides
        maps = x.permute(0, 2, 3, 1)
        total = maps.new_zeros((len(x), *sides, len(weight)), dtype=torch.float32)
        for a, b, outputs, inputs in _taps(maps, weight.shape[2:], stride, padding, sides):
            _add_product(total[outputs], maps[inputs], weight[:, :, a, b].t())
        return total.to(x.dtype).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        maps, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        x_grad = torch.zeros_like(maps, dtype=torch.float32)
        taps = list(_taps(maps, weight.shape[2:], *ctx.geometry))
        # Entries of the kernel that meet only padding have no gradient; mostly there are none.
        are_all_used = len(taps) == weight[0, 0].numel()
        weight_grad = torch.empty_like(weight) if are_all_used else torch.zeros_like(weight)
        for a, b, outputs, inputs in taps:
            _add_product(x_grad[inputs], grad[outputs], weight[:, :, a, b])
            torch.mm(_rows(grad[outputs]).t(), _rows(maps[inputs]), out=weight_grad[:, :, a, b])
        return x_grad.to(x.dtype).permute(0, 3, 1, 2), weight_grad, None, None, None


def _rows(maps: Tensor) -> Tensor:
    """Return maps (N, H, W, C) as a matrix with a row for each position."""
    return maps.reshape(-1, maps.shape[-1])


def _add_product(total: Tensor, maps: Tensor, matrix: Tensor) -> None:
    total += (_rows(maps) @ matrix).view(total.shape)


MAX_PATCH_SIZE = 64
"""The rule: at most 64 numbers a patch, such as 7x7 of one channel or 3x3 of three."""
_ALIGNMENT = 8


@contextlib.contextmanager
def patch_convs(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, convolutions of small patches whose input needs no gradient run as products of matrices.

    For networks in channels-last that are compiled. Outputs and gradients equal the direct convolution's up to
    rounding.
    """
    convs = [conv for conv in _plain_convs(model) if _suits_patches(conv)] if enabled else []
    with _exchange_classes(convs, lambda own_class: _PatchConv2d):
        yield


def _suits_patches(conv: nn.Conv2d) -> bool:
    patch_size = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
    return conv.in_channels < patch_size <= MAX_PATCH_SIZE


class _PatchConv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.requires_grad:
            return super()._conv_forward(input, weight, bias)
        dtype = _conv_dtype(input)
        assert not isinstance(self.padding, str)
        output = product_conv(input.to(dtype), weight.to(dtype), self.stride, self.padding)
        return output if bias is None else output + bias.to(dtype).view(-1, 1, 1)


def product_conv(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Return the convolution of x (N, C, H, W) with weight (out, C, h, w), (N, out, H', W') in channels-last."""
    kernel = (weight.shape[2], weight.shape[3])
    height, width = _output_sides(x, kernel, stride, padding)
    patches = functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
    matrix = weight.flatten(1)
    missing = -matrix.shape[1] % _ALIGNMENT  # the fast kernels need rows of whole multiples
    patches, matrix = (functional.pad(part, (0, missing)) for part in (patches, matrix))
    output = patches.reshape(-1, matrix.shape[1]) @ matrix.T
    return output.view(len(x), height, width, len(weight)).permute(0, 3, 1, 2)


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@contextlib.contextmanager
def float32_convs(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, convolutions that bfloat16 gets wrong on a CPU run in float32 under autocast: those of narrow maps.

    They are those of every class of torch.nn and of classes derived from it, also in a model that is compiled inside.
    Weights that are bfloat16 themselves and calls of `torch.nn.functional` outside such a module stay as they are.
    Outputs are of autocast's type.
    """
    convs = [conv for conv in model.modules() if isinstance(conv, _CONVS) and may_be_misread(conv)] if enabled else []
    with _exchange_classes(convs, _float32_class):
        yield


def may_be_misread(conv: Any) -> bool:
    """Return True for a convolution that bfloat16 gets wrong on a CPU for maps of some width (`is_misread`)."""
    return conv.stride[-1] > 1 and math.prod(conv.kernel_size) > 1


def is_misread(side: int, stride: int, padding: int) -> bool:
    """Return True for maps of this width, of a convolution that `may_be_misread`."""
    return side < stride or (side == stride and padding == 0)


class _Float32Conv(nn.Module):
    """Mixed into the class of a convolution: float32 for narrow maps."""

    stride: tuple[int, ...]
    kernel_size: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    weight: Tensor

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        is_cast = _conv_dtype(input) == torch.bfloat16 and self.weight.dtype == torch.float32
        if not is_cast or not self._is_narrow(input.shape[-1]):
            return super().forward(input, *args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            output: Tensor = super().forward(input.float(), *args, **kwargs)
            return output.to(torch.bfloat16)

    def _is_narrow(self, side: int) -> bool:
        stride = self.stride[-1]
        padding = 0 if isinstance(self.padding, str) else self.padding[-1]  # "same" is for stride 1 only
        if self.transposed:  # the kernel steps over the output
            side = (side - 1) * stride - 2 * padding + self.dilation[-1] * (self.kernel_size[-1] - 1) + 1
        return is_misread(side, stride, padding)


@cache
def _float32_class(own_class: type) -> type:
    # One class for each: the code of torch.compile is for one class, and must serve every step.
    return type(f"Float32{own_class.__name__}", (_Float32Conv, own_class), {})
