"""Activations and additions that overwrite their input in training steps, which saves fresh memory for each.

The gradient of ReLU is a function of its output, that of a sum needs no values. So relu(x) may be written into x, and
shortcut + branch into branch, wherever nothing else reads x or branch: neither the layer that made it, for its own
gradient, nor another path, nor a hook. Outputs and gradients are equal to the bit.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from reslab.nn.block import Branch, ResidualBlock
from reslab.nn.merge import Merge
from reslab.nn.network import ResidualNetwork

# Layers that return a tensor of their own and keep none of its values for the backward pass. Subclasses may differ.
_PRODUCERS = {
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm,
}  # fmt: skip


@contextlib.contextmanager
def inplace_ops(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, the residual networks in `model` work in place where nothing else reads what is overwritten.

    These are ReLU after a convolution, a batch or group norm and the addition of a block, and that addition after a
    convolution or norm; without hooks on the two modules.
    """
    modules = list(_find_modules(model)) if enabled and not _has_any_global_hook() else []
    for module in modules:
        module.inplace = True
    try:
        yield
    finally:
        for module in modules:
            module.inplace = False


def _find_modules(model: nn.Module) -> Iterator[nn.ReLU | Merge]:
    """Yield the activations and merges that may work in place and do not yet."""
    modules = list(model.modules())
    # A module that two parents hold is called in places that are not seen here.
    num_parents = Counter(child for module in modules for child in module.children())
    for module in modules:
        for producer, reader in _pairs(module):
            if reader.inplace or num_parents[reader] > 1 or _has_hooks(producer) or _has_hooks(reader):
                continue
            yield reader


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, nn.ReLU | Merge]]:
    """Yield each ReLU and merge that alone receives the fresh output of another module, after that other module."""
    for layers in _layer_sequences(module):
        for producer, layer in itertools.pairwise(layers):
            if type(producer) in _PRODUCERS and type(layer) is nn.ReLU:
                yield producer, layer
    if isinstance(module, ResidualBlock):
        yield from _merge_pairs(module)


def _merge_pairs(block: ResidualBlock) -> Iterator[tuple[nn.Module, nn.ReLU | Merge]]:
    """Yield the pairs at the end of a branch: its last layer and the merge, and what precedes `post` and its ReLU."""
    last = getattr(block, block.branch_names[-1]) if block.branch_names else None
    if type(last) not in _PRODUCERS:
        last = None
    if last is not None and block.merge is not None and block.merge.may_overwrite_branch:
        yield last, block.merge
    if block.merge is not None:
        last = block.merge if block.merge.is_sum else None
    first = getattr(block, block.post_names[0]) if block.post_names else None
    if last is not None and type(first) is nn.ReLU:
        yield last, first


def _layer_sequences(module: nn.Module) -> list[list[nn.Module]]:
    """Return the layers that a module runs one after the other, a list for each such sequence."""
    names: tuple[Sequence[str], ...] = ()
    deep_stem: list[nn.Module] = []
    if isinstance(module, ResidualBlock):
        names = module.pre_names, module.branch_names, module.post_names
    elif isinstance(module, Branch):
        names = (module.branch_names,)
    elif isinstance(module, ResidualNetwork):
        names = module.stem_names, module.final_names
        conv1 = module._modules.get("conv1")
        deep_stem = list(conv1) if isinstance(conv1, nn.Sequential) else []
    return [[getattr(module, name) for name in part] for part in names] + [deep_stem]


def _has_hooks(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)
