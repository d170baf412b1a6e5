"""Strides, sizes and receptive field on the way from the input to the head of a network."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import BlockSpec, ConvSpec, Stages, layout_stages, stem_ops
from reslab.spec.operations import is_pool
from reslab.spec.order import has_global_pool, op_stride


def total_stride(arch: Arch, stages: Stages) -> int:
    """Return the factor by which height and width shrink from the input to the last block."""
    stem_stride = math.prod(op_stride(op) for op in stem_ops(arch))
    num_transitions = max(len(stages) - 1, 0)
    pools = math.prod(op_stride(op) for op in transition_pools(arch)) ** num_transitions
    transitions = math.prod(transition_strides(arch)) * pools
    return stem_stride * transitions * math.prod(block.stride for stage in stages for block in stage)


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
    return math.prod(sides)


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
