"""Recompute a module in the backward pass in place of keeping its activations."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def batch_norms(model: nn.Module, frozen: Iterable[nn.Module] = ()) -> list[_BatchNorm]:
    """Return the BatchNorms of a network that track running statistics, without the `frozen` ones."""
    excluded = set(frozen)
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module not in excluded
    ]


@contextlib.contextmanager
def frozen_bn_stats(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Let the norms update copies of their running statistics inside the context, so that their own stay unchanged."""
    original_buffers = {norm: dict(norm._buffers) for norm in norms}
    for norm, buffers in original_buffers.items():
        norm._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in original_buffers.items():
            norm._buffers.update(buffers)


def run_recomputed(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return forward(x), of which only x is kept for the backward pass (Chen et al. 2016, arXiv:1604.06174, Sec. 4).

    The recomputation draws the same random numbers, and does not update the running statistics of `module` again.
    """
    norms = batch_norms(module)

    def make_contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), frozen_bn_stats(norms)

    output: Tensor = checkpoint(forward, x, use_reentrant=False, context_fn=make_contexts)
    return output
