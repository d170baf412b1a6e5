"""The maps of a network, by arithmetic: strides, the receptive field, and the shape that each layer reads and gives.

No torch: drawings and tables of networks come from here. `reslab.nn` builds the same layers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from reslab.spec.arch import Arch, ConvSpec
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import BlockSpec, Stages, final_ops, layout_stages, stem_ops, stem_stride
from reslab.spec.operations import is_pool
from reslab.spec.order import NamedOp, conv_width, has_global_pool, op_stride, pool_stride


def total_stride(arch: Arch, stages: Stages) -> int:
    """Return the factor by which height and width shrink from the input to the last block."""
    num_transitions = max(len(stages) - 1, 0)
    pools = prod(op_stride(op) for op in transition_pools(arch)) ** num_transitions
    transitions = prod(transition_strides(arch)) * pools
    return stem_stride(arch) * transitions * prod(block.stride for stage in stages for block in stage)


def transition_strides(arch: Arch) -> tuple[int, ...]:
    """Return the stride of the transition's convolution ahead of each stage; 1 where there is none."""
    flags = arch.replace_stride_with_dilation or (False,) * len(arch.strides)
    dilated = (False, *flags)
    return tuple(
        stride if stage and arch.transition and not dilated[stage] else 1 for stage, stride in enumerate(arch.strides)
    )


def transition_dilations(arch: Arch) -> tuple[int, ...]:
    """Return the dilation of the transition's convolution ahead of each stage; 0 where it keeps its stride.

    It is that of the stage before, as in timm: `next_dilation` of the blocks there.
    """
    flags = (False, *(arch.replace_stride_with_dilation or (False,) * len(arch.strides)))
    dilations, dilation = [], 1
    for stride, is_dilated in zip(arch.strides, flags, strict=False):
        dilations.append(dilation if is_dilated and stride > 1 else 0)
        dilation *= stride if is_dilated else 1
    return tuple(dilations)


def outer_conv(op: Op, in_channels: int, out_channels: int, stride: int, dilation: int = 0) -> ConvSpec:
    """Return the convolution of an operation in stem, transition or head; a `dilation` replaces its stride."""
    conv = ConvSpec(op.size or 3, in_channels, out_channels, stride, kernels=op.sides, strides=op.strides)
    return replace(conv, stride=1, strides=(), dilation=dilation, keeps_size=True) if dilation else conv


def transition_pools(arch: Arch) -> tuple[Op, ...]:
    """Return the pools of a transition, which have strides of their own."""
    return tuple(op for op in parse_ops(arch.transition) if is_pool(op) and op.size)


def num_positions(arch: Arch, stages: Stages, head_ops: Iterable[Op]) -> int:
    """Return height times width of the maps after the operations `head_ops`, for the architecture's image size.

    Raises ValueError if the maps vanish.
    """
    head_ops = tuple(head_ops)
    if has_global_pool(head_ops):
        return 1
    strides = [(op_stride(op), _rounds_up(op)) for op in stem_ops(arch)]
    for number, (stage, transition_stride) in enumerate(zip(stages, transition_strides(arch), strict=True)):
        pools = transition_pools(arch) if number else ()
        strides += [(transition_stride, False), *((op_stride(op), _rounds_up(op)) for op in pools)]
        strides += [(block.stride, True) for block in stage]
    strides += [(op_stride(op), _rounds_up(op)) for op in head_ops]
    sides = list(arch.image_size)
    for stride, rounds_up in strides:
        sides = [-(-side // stride) if rounds_up else side // stride for side in sides]
    if min(sides) < 1:
        required = f"images large enough for {arch.name}"
        raise invalid(required, "x".join(map(str, arch.image_size)), "32x32", "set image_size")
    return prod(sides)


def _rounds_up(op: Op) -> bool:
    """Odd windows are padded, so the size rounds up; `maxpool2` and `conv4/4` have no padding and round down."""
    return (op.size or 1) % 2 == 1


def receptive_field(arch: Arch) -> int:
    """Return the receptive field of the last block: input pixels, along one side, that one output position depends on.

    r = 1 + sum over convolutions and pools of (kernel - 1) * dilation * (product of the strides before it), through
    the branches; Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Eq. 2.
    """
    size, jump = 1, 1
    for kernel, stride, dilation in _windows(arch):
        size += (kernel - 1) * dilation * jump
        jump *= stride
    return size


def _windows(arch: Arch) -> Iterator[tuple[int, int, int]]:
    """Yield kernel, stride and dilation of every window from the input to the last block, in order."""
    for op in stem_ops(arch):
        if op.name == "conv" or (is_pool(op) and op.size):
            yield op.size or 3, op_stride(op), 1
    pools = transition_pools(arch)
    transition_ops = [op for op in parse_ops(arch.transition) if op.name == "conv" or op in pools]
    transitions = zip(layout_stages(arch), transition_strides(arch), transition_dilations(arch), strict=True)
    for number, (stage, stride, dilation) in enumerate(transitions):
        for op in transition_ops if number else ():
            yield (op.size or 3, stride, dilation or 1) if op.name == "conv" else (op.size or 3, op_stride(op), 1)
        for block in stage:
            yield from _branch_windows(block)


def _branch_windows(block: BlockSpec) -> Iterator[tuple[int, int, int]]:
    for named_op in (*block.ops.pre, *block.ops.branch):
        if named_op.op.name == "conv":
            conv = block.convs[named_op.num_convs - 1]
            yield conv.kernel, conv.stride, conv.dilation
        elif is_pool(named_op.op) and block.stride > 1:
            yield named_op.op.size or block.stride, named_op.op.stride or block.stride, 1


Shape = tuple[int, ...]
"""Channels, then the sides of the map; the number of features alone after `flatten`."""


@dataclass(frozen=True)
class Layer:
    """An operation with the shapes that it reads and gives.

    `name`: of its module in a block (`conv1`). `conv`: the sizes of a convolution. `size` and `stride`: those of a
    pool; a size of 0 is the whole map. The zeros that a shortcut adds are `zero-pad(before, after)`.
    """

    op: Op
    in_shape: Shape
    out_shape: Shape
    name: str = ""
    conv: ConvSpec | None = None
    size: int = 0
    stride: int = 1


@dataclass(frozen=True)
class BlockLayers:
    """The layers of a block: ahead of the fork, of both paths, and after the merge.

    `branch` is one of the parallel branches where `spec.branches` says there are several; they are alike. `shortcut` is
    None where there is none (a plain twin), and empty for the identity.
    """

    spec: BlockSpec
    in_shape: Shape
    pre: tuple[Layer, ...]
    branch: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] | None
    post: tuple[Layer, ...]

    @property
    def fork_shape(self) -> Shape:
        """The shape of what both paths read."""
        return self.pre[-1].out_shape if self.pre else self.in_shape

    @property
    def out_shape(self) -> Shape:
        """The shape of the block's output, which is the branch's."""
        return self.branch[-1].out_shape


@dataclass(frozen=True)
class StageLayers:
    """A stage: the layers between it and the stage before, and its blocks."""

    name: str
    transition: tuple[Layer, ...]
    blocks: tuple[BlockLayers, ...]

    @property
    def out_shape(self) -> Shape:
        """The shape of the output of its last block."""
        return self.blocks[-1].out_shape


@dataclass(frozen=True)
class NetworkLayers:
    """The layers of a network: stem, stages, those between the last block and the head, and head."""

    arch: Arch
    stem: tuple[Layer, ...]
    stages: tuple[StageLayers, ...]
    final: tuple[Layer, ...]
    head: tuple[Layer, ...]

    @property
    def blocks(self) -> tuple[BlockLayers, ...]:
        """All blocks, in order."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    def block(self, name: str) -> BlockLayers:
        """Return the block of this name (`layer2.0`). Raises ValueError for an unknown name, with the nearest ones."""
        blocks = {block.spec.name: block for block in self.blocks}
        if name not in blocks:
            raise unknown_name("block", name, blocks)
        return blocks[name]


def network_layers(arch: Arch) -> NetworkLayers:
    """Return the layers of a network with their shapes, for images of `arch.image_size`.

    Raises ValueError for an invalid architecture, and for images that are too small.
    """
    stem = _outer_layers(arch, stem_ops(arch), arch.input_size)
    shape = stem[-1].out_shape if stem else arch.input_size
    stages = []
    transitions = zip(layout_stages(arch), transition_strides(arch), transition_dilations(arch), strict=True)
    for number, (specs, stride, dilation) in enumerate(transitions, 1):
        transition = _transition_layers(arch, shape, specs[0].in_channels, stride, dilation) if number > 1 else ()
        shape = transition[-1].out_shape if transition else shape
        blocks = []
        for spec in specs:
            blocks.append(block_layers(arch, spec, shape))
            shape = blocks[-1].out_shape
        stages.append(StageLayers(f"layer{number}", transition, tuple(blocks)))
    final = _outer_layers(arch, final_ops(arch) if stages else (), shape)
    head = _outer_layers(arch, parse_ops(arch.head), shape)
    return NetworkLayers(arch, stem, tuple(stages), final, head)


def block_layers(arch: Arch, spec: BlockSpec, in_shape: Shape) -> BlockLayers:
    """Return the layers of a block that reads maps of `in_shape`."""
    pre_ops = () if spec.skip_preact else spec.ops.pre
    pre = _block_layers(arch, spec, pre_ops if spec.shared_preact else (), in_shape)
    fork_shape = pre[-1].out_shape if pre else in_shape
    branch = _block_layers(arch, spec, (() if spec.shared_preact else pre_ops) + spec.ops.branch, fork_shape)
    out_shape = branch[-1].out_shape
    post = _block_layers(arch, spec, spec.ops.post, out_shape)
    shortcut = None if spec.shortcut is None else _shortcut_layers(arch, spec, fork_shape, out_shape)
    return BlockLayers(spec, in_shape, pre, branch, shortcut, post)


def _block_layers(arch: Arch, spec: BlockSpec, ops: Iterable[NamedOp], shape: Shape) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for named_op in ops:
        op = named_op.op
        if op.name == "conv":
            layers.append(_conv_layer(arch, op, shape, spec.convs[named_op.num_convs - 1], named_op.name))
        elif is_pool(op):
            stride = op.stride or spec.stride
            if not spec.has_pool(op):
                continue
            layers.append(_pool_layer(op, shape, op.size or _DEFAULT_SIZES.get(op.name, stride), stride, named_op.name))
        elif not _is_absent(arch, op):
            layers.append(Layer(op, shape, shape, named_op.name))
        shape = layers[-1].out_shape if layers else shape
    return tuple(layers)


def _outer_layers(arch: Arch, ops: Iterable[Op], shape: Shape) -> tuple[Layer, ...]:
    """Return the layers of stem, final operations or head."""
    layers: list[Layer] = []
    ops = tuple(ops)
    for i, op in enumerate(ops):
        if op.name == "conv":
            conv = outer_conv(op, shape[0], conv_width(op), op.stride or 1)
            layers.append(_conv_layer(arch, op, shape, conv))
        elif is_pool(op):
            layers.append(_outer_pool(op, shape))
        elif op.name == "flatten":
            layers.append(Layer(op, shape, (prod(shape),)))
        elif op.name == "fc":
            is_last = not any(later.name == "fc" for later in ops[i + 1 :])
            layers.append(Layer(op, shape, (arch.num_classes if is_last else int(op.args[0]),)))
        elif not _is_absent(arch, op):
            layers.append(Layer(op, shape, shape))
        shape = layers[-1].out_shape if layers else shape
    return tuple(layers)


def _transition_layers(arch: Arch, shape: Shape, out_channels: int, stride: int, dilation: int) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for op in parse_ops(arch.transition):
        if op.name == "conv":
            layers.append(_conv_layer(arch, op, shape, outer_conv(op, shape[0], out_channels, stride, dilation)))
        elif is_pool(op):
            layers.append(_outer_pool(op, shape))
        elif not _is_absent(arch, op):
            layers.append(Layer(op, shape, shape))
        shape = layers[-1].out_shape if layers else shape
    return tuple(layers)


def _outer_pool(op: Op, shape: Shape) -> Layer:
    size = op.size or _DEFAULT_SIZES.get(op.name, 0)
    return _pool_layer(op, shape, size, pool_stride(op) if size else 1)


def _is_absent(arch: Arch, op: Op) -> bool:
    """Return whether an operation is a norm in a network without norms."""
    return op.name == "norm" and (op.args[0] if op.args else arch.norm) == "none"


def _conv_layer(arch: Arch, op: Op, shape: Shape, conv: ConvSpec, name: str = "") -> Layer:
    kernels, strides = conv.kernels or (conv.kernel,) * arch.dims, conv.strides or (conv.stride,) * arch.dims
    sides = []
    for side, kernel, stride in zip(shape[1:], kernels, strides, strict=True):
        if conv.keeps_size or (arch.padding == "same" and stride > 1):
            sides.append(-(-side // stride))
        else:
            padding = conv.dilation * (kernel - 1) // 2 if kernel % 2 else 0
            sides.append((side + 2 * padding - conv.dilation * (kernel - 1) - 1) // stride + 1)
    return Layer(op, shape, (conv.out_channels, *_checked(sides, op)), name, conv)


# The window of a pool whose expression gives none; others cover their stride, and in stem and head the whole map.
_DEFAULT_SIZES = {"blurpool": 3}


def _pool_layer(op: Op, shape: Shape, size: int, stride: int, name: str = "") -> Layer:
    if not size:
        return Layer(op, shape, (shape[0], *(1 for _ in shape[1:])), name)
    if "ceil" in (*op.args, *dict(op.kwargs).values()):
        sides = [_ceil_windows(side, size, stride) for side in shape[1:]]
    else:
        sides = [(side + 2 * ((size - 1) // 2) - size) // stride + 1 for side in shape[1:]]
    return Layer(op, shape, (shape[0], *_checked(sides, op)), name, size=size, stride=stride)


def _ceil_windows(side: int, size: int, stride: int) -> int:
    """Return the number of windows, of which the last may leave the map but begins inside."""
    num_windows = -((size - side) // stride) + 1
    return num_windows - ((num_windows - 1) * stride >= side)


def _checked(sides: list[int], op: Op) -> list[int]:
    if min(sides, default=1) < 1:
        raise invalid(f"images large enough for '{op}'", "x".join(map(str, sides)), next_step="set image_size")
    return sides


def _shortcut_layers(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...] | None:
    assert spec.shortcut is not None
    make = _SHORTCUT_LAYERS.get(spec.shortcut.builder, _registered_shortcut)
    return make(arch, spec, fork_shape, out_shape)


def _identity(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...] | None:
    return None if spec.changes_path else ()


def _zero_pad(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    return (_zeros(fork_shape, out_shape, 0, spec.stride),)


def _split_zero_pad(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    return (_zeros(fork_shape, out_shape, (out_shape[0] - fork_shape[0]) // 2, spec.stride),)


def _zeros(in_shape: Shape, out_shape: Shape, before: int, stride: int) -> Layer:
    after = out_shape[0] - in_shape[0] - before
    return Layer(Op("zero-pad", (before, after)), in_shape, out_shape, stride=stride)


def _pool_and_pad(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    pooled = _average_pool(spec, fork_shape, out_shape)
    return (*pooled, _zeros((fork_shape[0], *out_shape[1:]), out_shape, 0, 1))


def _average_pool(spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    if spec.stride == spec.next_dilation == 1:
        return ()
    return (Layer(Op("avgpool", size=2), fork_shape, (fork_shape[0], *out_shape[1:]), size=2, stride=spec.stride),)


def _projection(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    assert spec.shortcut is not None
    kernel = int(dict(spec.shortcut.args).get("kernel", 1)) if spec.stride > 1 else 1
    conv = ConvSpec(kernel, spec.in_channels, spec.out_channels, spec.stride)
    return (Layer(Op("conv"), fork_shape, out_shape, conv=conv),)


def _normed(arch: Arch, spec: BlockSpec, out_shape: Shape) -> tuple[Layer, ...]:
    has_norm = spec.projection_norm and arch.norm != "none"
    return (Layer(Op("norm"), out_shape, out_shape),) if has_norm else ()


def _project(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    return (*_projection(arch, spec, fork_shape, out_shape), *_normed(arch, spec, out_shape))


def _pool_and_project(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    pooled_shape = (fork_shape[0], *out_shape[1:])
    conv = ConvSpec(1, spec.in_channels, spec.out_channels)
    projection = Layer(Op("conv"), pooled_shape, out_shape, conv=conv)
    return (*_average_pool(spec, fork_shape, out_shape), projection, *_normed(arch, spec, out_shape))


def _shift_and_project(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    convs = Layer(Op("shift-project", (out_shape[0] // 2,)), fork_shape, out_shape, stride=spec.stride)
    return (convs, *_normed(arch, spec, out_shape))


def _registered_shortcut(arch: Arch, spec: BlockSpec, fork_shape: Shape, out_shape: Shape) -> tuple[Layer, ...]:
    """Return one layer for a shortcut that a user registered."""
    assert spec.shortcut is not None
    return (Layer(Op(spec.shortcut.builder), fork_shape, out_shape, stride=spec.stride),)


_SHORTCUT_LAYERS: dict[str, Callable[[Arch, BlockSpec, Shape, Shape], tuple[Layer, ...] | None]] = {
    "identity": _identity,
    "pad": _zero_pad,
    "pad-split": _split_zero_pad,
    "avg-pad": _pool_and_pad,
    "project": _project,
    "conv1x1": _projection,
    "avg-project": _pool_and_project,
    "shift-project": _shift_and_project,
}
