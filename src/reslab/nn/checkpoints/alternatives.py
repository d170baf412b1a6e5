"""Networks of the zoo that the same weights fit: their tensors have the same names and shapes.

Two networks of this kind may compute different things (`resnet50`, `resnetblur50`), which no checkpoint reveals.
The layout of the blocks rules out most networks; the rest are built on the meta device with at most two blocks in each
stage, because the further blocks of a stage have the second one's tensors. `build` is the class of the network.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from reslab.nn.init import init_empty_weights
from reslab.spec.arch import Arch
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import BlockSpec, final_ops, layout_stages, stem_ops
from reslab.spec.operations import is_pool
from reslab.spec.order import ATTENTION
from reslab.spec.zoo import ARCHS

Shapes = Mapping[str, tuple[int, ...]]
BuildFn = Callable[[Arch], nn.Module]

_IO_AXES = ("num_classes", "in_channels", "image_size")
_BLOCKS_PER_STAGE = 2
_NO_WEIGHTS = ("act", "drop", "drop2d", "mul", "flatten")
COUNTER = "num_batches_tracked"


def shorten(arch: Arch) -> Arch:
    """Return the network with at most two blocks in each stage."""
    return replace(arch, depths=tuple(min(depth, _BLOCKS_PER_STAGE) for depth in arch.depths))


def networks_with_tensors_of(arch: Arch, build: BuildFn) -> tuple[Arch, ...]:
    """Return the zoo's other networks, with this one's inputs and classes, whose tensors have its names and shapes."""
    sizes = {axis: getattr(arch, axis) for axis in _IO_AXES}
    candidates = (
        replace(other, **sizes)
        for name, other in ARCHS.items()
        if name != arch.name
        and (other.depths, other.share_weights, other.dims) == (arch.depths, arch.share_weights, arch.dims)
    )
    return tuple(
        other
        for other in candidates
        if _outline(other) == _outline(arch) and _shapes(other, build) == _shapes(arch, build)
    )


def networks_with_tensors(file_shapes: Shapes, sizes: Mapping[str, Any], build: BuildFn) -> list[str]:
    """Return the names of the zoo's networks that have exactly these tensors, under reslab's keys.

    `sizes`: the axes num_classes and in_channels of the file.
    """
    file_shapes = {name: shape for name, shape in file_shapes.items() if not name.endswith(COUNTER)}
    depths = depths_from_keys(file_shapes)
    kept = {name: shape for name, shape in file_shapes.items() if _is_kept(name)}
    candidates = [replace(arch, **sizes) for arch in ARCHS.values() if arch.depths == depths and not arch.share_weights]
    return [arch.name for arch in candidates if _could_fit(arch, kept) and _shapes(arch, build) == kept]


def depths_from_keys(names: Sequence[str] | Shapes) -> tuple[int, ...]:
    """Return the number of blocks of each stage under reslab's keys."""
    blocks: dict[int, set[int]] = {}
    for name in names:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def block_modules(names: Iterable[str]) -> frozenset[str]:
    """Return the names that modules have within their blocks: `conv1` of `layer1.0.conv1`."""
    return frozenset(match[1] for name in names if (match := re.fullmatch(r"layer\d+\.\d+\.(.+)", name)))


@functools.cache
def block_modules_of(arch: Arch, build: BuildFn) -> frozenset[str]:
    """Return the names of all modules within the network's blocks."""
    with init_empty_weights():
        network = build(shorten(replace(arch, norm="batch") if arch.norm == "custom" else arch))
    return block_modules(name for name, _ in network.named_modules())


def _is_kept(name: str) -> bool:
    match = re.match(r"layer\d+\.(\d+)\.", name)
    return match is None or int(match[1]) < _BLOCKS_PER_STAGE


def _could_fit(arch: Arch, file_shapes: Shapes) -> bool:
    """Return whether convolutions, shortcuts and attention of the blocks agree with the names in the file."""
    if ("norm.weight" in file_shapes) != any(op.name == "norm" for op in (*final_ops(arch), *parse_ops(arch.head))):
        return False
    return all(_block_could_fit(block, file_shapes) for stage in _stages(arch) for block in stage)


def _block_could_fit(block: BlockSpec, file_shapes: Shapes) -> bool:
    for number, conv in enumerate(block.convs, 1):
        expected = (conv.out_channels, conv.in_channels // conv.groups, conv.kernel)
        if file_shapes.get(f"{block.name}.conv{number}.weight", expected)[:3] != expected:
            return False
    parts = {key.split(".")[2] for key in file_shapes if key.startswith(f"{block.name}.")}
    attention = {named_op.op.name for named_op in (*block.ops.pre, *block.ops.branch) if named_op.op.name in ATTENTION}
    return attention == parts & set(ATTENTION) and _has_projection(block) == ("downsample" in parts)


def _has_projection(block: BlockSpec) -> bool:
    return block.shortcut is not None and block.changes_path and block.shortcut.has_weights


@functools.cache
def _stages(arch: Arch) -> tuple[tuple[BlockSpec, ...], ...]:
    return layout_stages(shorten(arch))


@functools.cache
def _outline(arch: Arch) -> tuple[Any, ...]:
    """Return what the layout says about names and shapes; equal for networks with equal tensors."""
    blocks = [block for stage in _stages(arch) for block in stage]
    return (
        arch.dims,
        tuple(tuple(_conv_shapes(block)) for block in blocks),
        tuple(_has_projection(block) for block in blocks),
        tuple(_weighted(tuple(op for part in _parts(block) for op in part)) for block in blocks),
        tuple(str(op).split("/")[0] for op in stem_ops(arch) if op.name == "conv"),
        _weighted((*final_ops(arch), *parse_ops(arch.head))),
    )


def _conv_shapes(block: BlockSpec) -> Iterator[tuple[int, ...]]:
    yield from ((conv.out_channels, conv.in_channels // conv.groups, conv.kernel) for conv in block.convs)


def _parts(block: BlockSpec) -> Iterator[list[Op]]:
    yield from ([named_op.op for named_op in part] for part in (block.ops.pre, block.ops.branch, block.ops.post))


def _weighted(ops: tuple[Op, ...]) -> tuple[str, ...]:
    """Return the sorted names of the operations that may have weights."""
    return tuple(sorted(op.name for op in ops if not is_pool(op) and op.name not in _NO_WEIGHTS))


@functools.cache
def _shapes(arch: Arch, build: BuildFn) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the network with at most two blocks in each stage, without counters."""
    with init_empty_weights():
        state = build(shorten(arch)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}
