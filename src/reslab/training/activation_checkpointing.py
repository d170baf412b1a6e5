"""Activation checkpointing: recompute each block in the backward pass to save memory."""

import contextlib
from collections.abc import Iterator

from torch import nn

from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid


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
    recomputed = [block for block in blocks if not block.recomputes]
    for block in recomputed:
        block.recomputes = True
    try:
        yield
    finally:
        for block in recomputed:
            block.recomputes = False
