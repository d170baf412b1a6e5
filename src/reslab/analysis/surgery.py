"""Switch blocks off, scale their branches and reorder them, for as long as a `with` block lasts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.layers import find_blocks, named_backbone_parts
from reslab.nn.block import ResidualBlock
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork, SharedStage
from reslab.spec.errors import invalid, unknown_name

_SHORTCUT_NAMES = ("downsample", "shortcut")
_BRANCH_END_TYPES = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_WIDTH_ATTRIBUTES = ("out_channels", "num_features", "num_channels")


@dataclass(frozen=True, eq=False)
class BlockSlot:
    """One position in the chain of blocks: its name and the block that runs there.

    A shared block runs several times and has one slot a call: `layer1.0`, `layer1.1`, ... are then the same module, and
    `repeat_index` counts its calls.
    """

    name: str
    block: nn.Module
    repeat_index: int = 0
    num_repeats: int = 1


def block_slots(model: nn.Module) -> list[BlockSlot]:
    """Return the slots in the order they run. Raises ValueError if `model` has no blocks."""
    if isinstance(model, DenseNetwork):
        parts = named_backbone_parts(model)
        return [replace(slot, name=f"{prefix}.{slot.name}") for prefix, part in parts for slot in block_slots(part)]
    if not isinstance(model, ResidualNetwork):
        return [BlockSlot(name, block) for name, block in find_blocks(model)]
    slots = []
    for name, stage in model.stages():
        if isinstance(stage, SharedStage):
            num_repeats = stage.num_repeats
            slots += [BlockSlot(f"{name}.{i}", stage[0], i, num_repeats) for i in range(num_repeats)]
        else:
            slots += [BlockSlot(f"{name}.{i}", block) for i, block in enumerate(stage)]
    return slots


def find_slots(model: nn.Module, names: Sequence[str]) -> list[BlockSlot]:
    """Return the slots with these names. Raises ValueError with the nearest names for an unknown one."""
    slots_by_name = {slot.name: slot for slot in block_slots(model)}
    for name in names:
        if name not in slots_by_name:
            raise unknown_name("block", name, slots_by_name)
    return [slots_by_name[name] for name in names]


def deletion_obstacle(block: nn.Module) -> str | None:
    """Return a text that says why a block cannot be switched off, or None if it can.

    A block can be switched off if it has a shortcut or keeps the shape.
    """
    if isinstance(block, ResidualBlock):
        spec = block.spec
        if block.merge is not None or (spec.in_channels == spec.out_channels and spec.stride == 1):
            return None
        change = f"{spec.in_channels} to {spec.out_channels} channels, stride {spec.stride}"
        return f"it has no shortcut and changes the shape ({change})"
    if _is_conv(block):
        in_channels, out_channels, stride = block_shape(block)
        if in_channels == out_channels and stride == 1:
            return None
        return f"it changes the shape ({in_channels} to {out_channels} channels)"
    if not any(hasattr(block, name) for name in _SHORTCUT_NAMES):
        return f"{type(block).__name__} has no known shortcut (downsample or shortcut)"
    if _last_branch_layer(block) is None:
        return f"{type(block).__name__} has no convolution or norm of its own"
    return None


def _is_conv(block: nn.Module) -> bool:
    """Return whether the block is a bare convolution, as in the plain networks of other libraries."""
    return isinstance(block, nn.modules.conv._ConvNd)


def _last_branch_layer(block: nn.Module) -> nn.Module | None:
    """Return the last convolution or norm of a third-party block: the branch is zero where its output is zero."""
    candidates = [
        module
        for name, module in block.named_children()
        if name not in _SHORTCUT_NAMES and isinstance(module, _BRANCH_END_TYPES)
    ]
    return candidates[-1] if candidates else None


@contextmanager
def disabled_blocks(model: nn.Module, block_names: Sequence[str]) -> Iterator[nn.Module]:
    """Switch off the branch of each named block: y = post(merge(shortcut(p), 0)), p = pre(x).

    Veit et al. 2016, arXiv:1605.06431, Sec. 4.1. The shortcut, the merge (a scale, a gate) and what follows it stay. A
    plain block with equal shapes becomes the identity. `model` itself changes and is restored at the end, also after an
    exception; give each thread a copy. Raises ValueError for an unknown block, and for one that cannot be switched off.
    """
    slots_by_block: dict[nn.Module, list[BlockSlot]] = {}
    for slot in find_slots(model, list(dict.fromkeys(block_names))):
        _check_deletable(model, slot)
        slots_by_block.setdefault(slot.block, []).append(slot)
    with ExitStack() as stack:
        for block, slots in slots_by_block.items():
            stack.enter_context(
                _disabled_block(block, slots)
                if isinstance(block, ResidualBlock)
                else _disabled_third_party_block(block)
            )
        yield model


def _check_deletable(model: nn.Module, slot: BlockSlot) -> None:
    obstacle = deletion_obstacle(slot.block)
    if obstacle is not None:
        deletable = [candidate.name for candidate in block_slots(model) if deletion_obstacle(candidate.block) is None]
        suggestion = ", ".join(deletable[:3]) or "none"
        raise invalid("a block that can be switched off", f"{slot.name}: {obstacle}", suggestion)


@dataclass
class _RepeatCounter:
    """Count the calls of a shared block, to distinguish those with the branch from those without."""

    num_repeats: int
    disabled: frozenset[int]
    next_repeat: int = field(default=0)

    def advance(self) -> bool:
        """Return whether the call that starts now runs without its branch."""
        repeat_index, self.next_repeat = self.next_repeat, (self.next_repeat + 1) % self.num_repeats
        return repeat_index in self.disabled


@contextmanager
def _disabled_block(block: ResidualBlock, slots: Sequence[BlockSlot]) -> Iterator[None]:
    counter = _RepeatCounter(slots[0].num_repeats, frozenset(slot.repeat_index for slot in slots))
    original_forward = block.forward

    def forward(x: Tensor) -> Tensor:
        return forward_without_branch(block, x) if counter.advance() else original_forward(x)

    with _replaced_forward(block, forward):
        yield


def forward_without_branch(block: ResidualBlock, x: Tensor) -> Tensor:
    """Return post(merge(shortcut(p), 0)) of a residual block, and x itself for a plain one."""
    if block.merge is None or block.downsample is None:
        return x
    p = block.pre(x)
    shortcut = block.downsample(p)
    return block.post(block.merge(p, shortcut, torch.zeros_like(shortcut)))


def scale_obstacle(block: nn.Module) -> str | None:
    """Return a text that says why the branch of a block cannot be scaled, or None if it can.

    A branch can be scaled if it is added to a shortcut, in a block of a residual network of reslab.
    """
    if not isinstance(block, ResidualBlock):
        return f"the branch of a {type(block).__name__} is not known"
    return "it has no shortcut" if block.merge is None else None


@contextmanager
def scaled_branches(model: nn.Module, factors: Mapping[str, float]) -> Iterator[nn.Module]:
    """Multiply the branch of each named block: y = post(merge(shortcut(p), factor * branch(p))), p = pre(x).

    A factor of 0 gives what `disabled_blocks` gives, 1 the block as it is. `model` itself changes and is restored at
    the end, also after an exception; give each thread a copy. Raises ValueError for an unknown block, and for one
    without a shortcut.
    """
    factors_by_block: dict[ResidualBlock, dict[int, float]] = {}
    num_repeats: dict[ResidualBlock, int] = {}
    for slot in find_slots(model, list(factors)):
        obstacle = scale_obstacle(slot.block)
        if obstacle is not None:
            raise invalid("a block with a shortcut, whose branch can be scaled", f"{slot.name}: {obstacle}")
        assert isinstance(slot.block, ResidualBlock)
        factors_by_block.setdefault(slot.block, {})[slot.repeat_index] = factors[slot.name]
        num_repeats[slot.block] = slot.num_repeats
    with ExitStack() as stack:
        for block, factors_by_repeat in factors_by_block.items():
            stack.enter_context(_scaled_block(block, factors_by_repeat, num_repeats[block]))
        yield model


@contextmanager
def _scaled_block(block: ResidualBlock, factors: Mapping[int, float], num_repeats: int) -> Iterator[None]:
    calls, original_forward = count(), block.forward

    def forward(x: Tensor) -> Tensor:
        factor = factors.get(next(calls) % num_repeats)
        return original_forward(x) if factor is None else forward_with_scaled_branch(block, x, factor)

    with _replaced_forward(block, forward):
        yield


def forward_with_scaled_branch(block: ResidualBlock, x: Tensor, factor: float) -> Tensor:
    """Return post(merge(shortcut(p), factor * branch(p))) of a block with a shortcut."""
    assert block.merge is not None
    assert block.downsample is not None
    p = block.pre(x)
    return block.post(block.merge(p, block.downsample(p), factor * block.branch(p)))


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace `module.forward` inside the block; the module's hooks still run."""
    # Nested uses set the attribute more than once, so the previous value is restored, not only removed.
    previous = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous


@contextmanager
def _disabled_third_party_block(block: nn.Module) -> Iterator[None]:
    if _is_conv(block):
        handle = block.register_forward_hook(lambda module, arguments, output: arguments[0])
    else:
        last_layer = _last_branch_layer(block)
        assert last_layer is not None
        handle = last_layer.register_forward_hook(lambda module, arguments, output: torch.zeros_like(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def swapped_blocks(model: nn.Module, first: str, second: str) -> Iterator[nn.Module]:
    """Swap two blocks (Veit et al. 2016, Sec. 4.3); see `reordered_blocks`."""
    with reordered_blocks(model, {first: second, second: first}):
        yield model


@contextmanager
def reordered_blocks(model: nn.Module, order: Mapping[str, str]) -> Iterator[nn.Module]:
    """Run block `order[name]` in the position of block `name`; positions that are not named keep theirs.

    `model` itself changes and is restored at the end, also after an exception. Raises ValueError for an unknown block,
    for a block that would run twice or not at all, and for one whose shape does not fit its new position.
    """
    target_slots, source_slots = find_slots(model, list(order)), find_slots(model, list(order.values()))
    if sorted(order) != sorted(order.values()):
        raise invalid("an order of the same blocks, each once", ", ".join(f"{a}: {b}" for a, b in order.items()))
    for target_slot, source_slot in zip(target_slots, source_slots, strict=True):
        _check_swappable(target_slot, source_slot)
    replacements = [
        (*_parent_and_key(model, target_slot), source_slot.block)
        for target_slot, source_slot in zip(target_slots, source_slots, strict=True)
    ]
    originals: list[nn.Module | None] = [parent._modules[key] for parent, key, _ in replacements]
    try:
        for parent, key, block in replacements:
            parent._modules[key] = block
        yield model
    finally:
        for (parent, key, _), original in zip(replacements, originals, strict=True):
            parent._modules[key] = original


def _parent_and_key(model: nn.Module, slot: BlockSlot) -> tuple[nn.Module, str]:
    parent_name, _, key = slot.name.rpartition(".")
    return model.get_submodule(parent_name), "0" if slot.num_repeats > 1 else key


def block_shape(block: nn.Module) -> tuple[int, int, int]:
    """Return (input channels, output channels, stride), which two blocks must share to be swapped; 0 where unknown."""
    if isinstance(block, ResidualBlock):
        return block.spec.in_channels, block.spec.out_channels, block.spec.stride
    convs = [module for module in (block, *block.children()) if isinstance(module, nn.modules.conv._ConvNd)]
    last_layer = block if _is_conv(block) else _last_branch_layer(block)
    out_channels = next((getattr(last_layer, name) for name in _WIDTH_ATTRIBUTES if hasattr(last_layer, name)), 0)
    return convs[0].in_channels if convs else 0, out_channels, max((max(conv.stride) for conv in convs), default=1)


def _check_swappable(target_slot: BlockSlot, source_slot: BlockSlot) -> None:
    target_shape, source_shape = block_shape(target_slot.block), block_shape(source_slot.block)
    is_same_block = target_slot.block is source_slot.block
    if 0 in target_shape and not is_same_block:
        raise invalid("blocks whose channels are known", f"{target_slot.name}, a {type(target_slot.block).__name__}")
    if target_shape != source_shape:
        descriptions = [
            f"{slot.name} ({a} to {b} channels, stride {s})"
            for slot, (a, b, s) in ((target_slot, target_shape), (source_slot, source_shape))
        ]
        got = " and ".join(descriptions)
        raise invalid("two blocks with equal channels and stride", got, next_step="swap blocks of one stage")
    if not is_same_block and not target_slot.num_repeats == source_slot.num_repeats == 1:
        raise invalid("blocks of which neither is shared", f"{target_slot.name} and {source_slot.name}")
