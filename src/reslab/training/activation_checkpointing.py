"""Activation checkpointing: recompute each block in the backward pass to save memory."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid
from reslab.training.batch_norm import batch_norms, frozen_bn_stats


def require_blocks(model: nn.Module) -> ResidualNetwork:
    """Return the network of residual blocks, of one for segmentation the backbone. Raises ValueError for another."""
    if isinstance(model, DenseNetwork):
        return model.residual_network
    if not isinstance(model, ResidualNetwork):
        got = f"the module {type(model).__name__}"
        raise invalid("a network of the zoo, by name", got, "activation_checkpointing=false")
    return model


@contextlib.contextmanager
def checkpoint_activations(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Keep only the inputs of the residual blocks for the backward pass, which recomputes each block.

    Chen et al. 2016, arXiv:1604.06174, Sec. 4. Losses, gradients and running statistics do not change: the
    recomputation draws the same random numbers and does not update running statistics. Raises ValueError for a
    network without residual blocks.
    """
    if not enabled:
        yield
        return
    blocks = [block for _, block in require_blocks(model).blocks()]
    for block in blocks:
        vars(block)["forward"] = _checkpointed_forward(block)
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _checkpointed_forward(block: nn.Module) -> Callable[[Tensor], Tensor]:
    original_forward, norms = block.forward, batch_norms(block)

    def make_contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), frozen_bn_stats(norms)

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return original_forward(x)
        output: Tensor = checkpoint(original_forward, x, use_reentrant=False, context_fn=make_contexts)
        return output

    return forward
