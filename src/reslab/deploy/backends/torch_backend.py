"""The torch backend: folded batch norms, channels-last memory format and, on x86, packed convolutions.

bf16, fp16 and compilation are optional.
"""

import torch
from torch import Tensor

from reslab.deploy.backends.backend import BackendOptions, ForwardFn
from reslab.deploy.backends.packed_convs import can_pack, pack_convolutions
from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.nn.module_network import AnyNetwork
from reslab.runtime.device import deterministic_mode

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
