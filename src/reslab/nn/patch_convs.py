"""First convolutions of few channels as one matrix product, for compiled training on a GPU.

A convolution of one to a few input channels leaves the matrix units of a GPU mostly idle, because libraries pad the
channels to 8. The product of the patches with the weights has no such loss:

    y = P W^T        P (N H' W', channels x height x width of the kernel), W (out channels, the same)

torch.compile writes P in one pass. It is as large as the patches, so that only small ones pay.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.nn.conv_exchange import exchange_convs, output_sides

MAX_PATCH_SIZE = 64
"""The rule: at most 64 numbers a patch, such as 7x7 of one channel or 3x3 of three."""
_ALIGNMENT = 8


@contextlib.contextmanager
def patch_convs(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, convolutions of small patches whose input needs no gradient run as products of matrices.

    For networks in channels-last that are compiled. Outputs and gradients equal the direct convolution's up to
    rounding.
    """
    with exchange_convs(model, _PatchConv2d, _suits) if enabled else contextlib.nullcontext():
        yield


def _suits(conv: nn.Conv2d) -> bool:
    patch_size = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
    return conv.in_channels < patch_size <= MAX_PATCH_SIZE


class _PatchConv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.requires_grad:
            return super()._conv_forward(input, weight, bias)
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        assert not isinstance(self.padding, str)
        output = product_conv(input.to(dtype), weight.to(dtype), self.stride, self.padding)
        return output if bias is None else output + bias.to(dtype).view(-1, 1, 1)


def product_conv(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Return the convolution of x (N, C, H, W) with weight (out, C, h, w), (N, out, H', W') in channels-last."""
    kernel = (weight.shape[2], weight.shape[3])
    height, width = output_sides(x, kernel, stride, padding)
    patches = functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
    matrix = weight.flatten(1)
    missing = -matrix.shape[1] % _ALIGNMENT  # the fast kernels need rows of whole multiples
    patches, matrix = (functional.pad(part, (0, missing)) for part in (patches, matrix))
    output = patches.reshape(-1, matrix.shape[1]) @ matrix.T
    return output.view(len(x), height, width, len(weight)).permute(0, 3, 1, 2)
