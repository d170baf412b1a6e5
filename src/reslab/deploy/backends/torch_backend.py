"""The torch backend: folded batch norms, channels-last memory format and, on x86, packed convolutions.

bf16, fp16 and compilation are optional. torch keeps weights in its own layout, so that oneDNN reorders them in every
forward pass; for ResNet-50 that is a fifth of the time at batch size 1. Packed convolutions store them in the layout
that oneDNN computes with on x86; the outputs are those of `nn.Conv2d` up to rounding. Their operations are those that
torch's compiler uses when it freezes weights (`torch._inductor.config.freezing`); where they are missing, nothing is
packed.
"""

import platform
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from reslab.deploy.backends.backend import BackendOptions, ForwardFn
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.nn.module_network import AnyNetwork
from reslab.runtime.device import deterministic_mode

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_PROCESSORS = ("x86_64", "AMD64")


class PackedConv2d(nn.Module):
    """A convolution in inference mode. Its weights are packed for the size of the first input; any size is correct."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight.detach(), conv.bias
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not weight.is_mkldnn:  # in several threads at once, each packs the same weights
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the size of the input
            weight = pack(weight.to_mkldnn(), *self.geometry, list(x.shape))
            self.weight = weight
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, "none", [], "")
        return output


def pack_convolutions(network: NetworkT) -> NetworkT:
    """Replace the 2-D convolutions of a network for inference on a CPU, in place, and return it.

    Subclasses, which may compute their weights, stay as they are, as does padding other than zeros.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if _can_be_packed(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, PackedConv2d(child))
    return network


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether weights of a type can be packed on a device."""
    if device.type != "cpu" or platform.machine() not in _PROCESSORS or not torch.backends.mkldnn.is_available():
        return False
    has_operations = hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )
    is_supported = dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return has_operations and is_supported


def _can_be_packed(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_torch_forward(network: AnyNetwork, options: BackendOptions) -> ForwardFn:
    """Return the forward function of the folded network, in the precision and, for images, channels-last."""
    dtype = _DTYPES[options.precision]
    memory_format = torch.channels_last if network.arch.dims == 2 else torch.contiguous_format
    folded = fold_batch_norms(network).to(options.device, dtype)
    if network.arch.dims == 2:
        folded = folded.to(memory_format=memory_format)
    folded.requires_grad_(False)
    if options.compiled:
        model = torch.compile(folded, dynamic=True)
    else:
        model = pack_convolutions(folded) if can_pack(dtype, options.device) else folded

    def forward(x: Tensor) -> Tensor:
        with torch.inference_mode(), deterministic_mode():
            return model(x.to(dtype=dtype, memory_format=memory_format))

    return forward
