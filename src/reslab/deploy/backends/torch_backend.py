"""torch as an engine: norms folded, channels last, bf16 and compilation where asked for."""

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Answer, Wish
from reslab.deploy.export.bn_folding import fold
from reslab.nn.network import ResidualNetwork
from reslab.runtime.device import exact_arithmetic

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(network: ResidualNetwork, wish: Wish) -> Answer:
    """The network folded, its weights in the precision asked for, in the memory order that convolutions like."""
    dtype = _DTYPES[wish.precision]
    folded = fold(network).to(wish.device, dtype).to(memory_format=torch.channels_last)
    folded.requires_grad_(False)
    run = torch.compile(folded, dynamic=True) if wish.compiled else folded

    def answer(x: Tensor) -> Tensor:
        with torch.inference_mode(), exact_arithmetic():
            return run(x.to(dtype=dtype, memory_format=torch.channels_last))

    return answer
