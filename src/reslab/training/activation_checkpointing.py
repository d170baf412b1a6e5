"""Units computed again in the backward pass, so that a deep network needs little memory."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid
from reslab.training.batch_norm import batch_norms, keeping_statistics


@contextlib.contextmanager
def recomputed_units(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Inside, a network keeps only its units' inputs for the backward pass, which computes each unit again (Chen et al.
    2016, arXiv:1604.06174, Sec. 4).

    Losses, gradients and running statistics are those without: the same noise is drawn again, and the statistics move
    in the first pass alone. Raises ValueError for a network that is not of units.
    """
    if not on:
        yield
        return
    if not isinstance(model, ResidualNetwork):
        name = type(model).__name__
        raise invalid(
            "a network of units to compute again, by name", f"the module {name}", "activation_checkpointing=false"
        )
    units = [unit for _, unit in model.blocks()]
    for unit in units:
        vars(unit)["forward"] = _recomputed(unit)
    try:
        yield
    finally:
        for unit in units:
            del vars(unit)["forward"]


def _recomputed(unit: nn.Module) -> Callable[[Tensor], Tensor]:
    plain, norms = unit.forward, batch_norms(unit)

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), keeping_statistics(norms)

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(x)
        found: Tensor = checkpoint(plain, x, use_reentrant=False, context_fn=contexts)
        return found

    return forward
