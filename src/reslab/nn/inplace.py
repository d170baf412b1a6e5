"""Activations and additions that overwrite their input in training steps and inference, which saves fresh memory.

The gradient of ReLU is a function of its output, that of a sum needs no values. So relu(x) may be written into x, and
shortcut + branch into branch, wherever nothing else reads x or branch: neither the layer that made it, for its own
gradient, nor another path, nor a hook. Outputs and gradients are equal to the bit.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from reslab.nn.block import ResidualBlock
from reslab.nn.dense import DenseNetwork
from reslab.nn.merge import FunctionMerge, add
from reslab.nn.network import ResidualNetwork, SharedStage

# Layers that return a tensor of their own and keep none of its values for the backward pass. Subclasses may differ.
_PRODUCERS = {
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm,
}  # fmt: skip
# Methods that decide which layers read a tensor.
_METHODS = {"combine", "forward", "_forward", "pre", "branch", "post", "features", "forward_stem", "forward_tail"}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Pair = tuple[nn.Module, nn.ReLU | FunctionMerge]
"""A module that returns a fresh tensor, and the only one that reads it."""


@contextlib.contextmanager
def inplace_ops(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, a residual network works in place where nothing else reads what is overwritten.

    These are ReLU after a convolution, a batch or group norm and the addition of a block, and that addition after a
    convolution or norm; without hooks on the two modules. Modules of users stay as they are, with all that they hold,
    because they may read any layer of that. Of segmentation networks and detectors, the backbone works in place. A copy
    made inside keeps working in place.
    """
    modules = work_in_place(model) if enabled else []
    try:
        yield
    finally:
        for module in modules:
            module.inplace = False


def work_in_place(model: nn.Module) -> list[nn.ReLU | FunctionMerge]:
    """Let a residual network work in place from now on, as inside `inplace_ops`; return the modules that changed."""
    modules = [] if _has_any_global_hook() else list(_find_modules(model))
    for module in modules:
        module.inplace = True
    return modules


def _find_modules(model: nn.Module) -> Iterator[nn.ReLU | FunctionMerge]:
    """Yield the activations and merges that may work in place and do not yet."""
    network = model.residual_network if isinstance(model, DenseNetwork) else model
    if not isinstance(network, ResidualNetwork) or not (_is_own(model) and _is_own(network)):
        return
    # What is held in two places or by a module of a user is called in places that are not seen here.
    modules = list(model.modules())
    num_places = Counter(
        child for module in modules for child in module._modules.values() if type(child) in (nn.ReLU, FunctionMerge)
    )
    foreign = {part for module in modules if not _is_known(module) for part in module.modules()}
    for producer, reader in _pairs(network):
        is_free = num_places[reader] == 1 and reader not in foreign
        if is_free and not reader.inplace and all(map(_is_plain, (producer, *reader.modules()))):
            yield reader


def _pairs(network: ResidualNetwork) -> Iterator[Pair]:
    yield from _layer_pairs(_layers(network, network.stem_names))
    conv1 = network._modules.get("conv1")
    if type(conv1) is nn.Sequential and _is_plain(conv1):  # of a deep stem
        yield from _layer_pairs(list(conv1))
    for _, stage in network.stages():
        for block in stage if type(stage) in (nn.Sequential, SharedStage) else ():
            if type(block) is ResidualBlock and _is_own(block):
                yield from _block_pairs(block)
    yield from _layer_pairs(_layers(network, network.final_names))


def _block_pairs(block: ResidualBlock) -> Iterator[Pair]:
    yield from _layer_pairs(_layers(block, block.pre_names))
    for branch in block.branches:
        if _is_own(branch):
            yield from _layer_pairs(_layers(branch, branch.branch_names))
    merge, post = block.merge, _layers(block, block.post_names)
    # The last layer of the only branch; of several, it is their combination that returns the branch.
    branch_end = _layers(block, block.branch_names)[-1:]
    if merge is None:
        yield from _layer_pairs([*branch_end, *post[:1]])
    elif type(merge) is FunctionMerge and merge.function is add and _is_own(merge):
        if branch_end and type(branch_end[0]) in _PRODUCERS and merge.adds_branch_unchanged:
            yield branch_end[0], merge
        if post and type(post[0]) is nn.ReLU:
            yield merge, post[0]
    yield from _layer_pairs(post)


def _layer_pairs(layers: Sequence[nn.Module]) -> Iterator[Pair]:
    """Yield each ReLU among layers that run one after the other, and the layer before it."""
    for producer, layer in itertools.pairwise(layers):
        if type(producer) in _PRODUCERS and type(layer) is nn.ReLU:
            yield producer, layer


def _layers(module: nn.Module, names: Sequence[str]) -> list[Any]:
    """Return the layers of these names, without identities, such as folded norms."""
    layers: list[Any] = [module._modules[name] for name in names]
    return [layer for layer in layers if type(layer) is not nn.Identity or not _is_plain(layer)]


def _is_own(module: nn.Module) -> bool:
    """Return True if a module runs our code: neither a class derived from ours nor a replaced method."""
    return type(module).__module__.startswith("reslab.") and _METHODS.isdisjoint(vars(module))


def _is_known(module: nn.Module) -> bool:
    """Return True for a class of ours, torch or torchvision, which calls the modules that it holds, nothing within."""
    return type(module).__module__.startswith(("reslab.", "torch.", "torchvision."))


def _is_plain(module: nn.Module) -> bool:
    """Return True without hooks and without a replaced `forward`."""
    own = vars(module)
    return not any(own[name] for name in _HOOKS) and "forward" not in own
