"""From an architecture to its units: every channel, stride and dilation counted out, and what means nothing refused.

How height and width shrink on the way through a network.

How far a network sees: the receptive field of one place of its last map.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.order import BlockOps, parse_order
from reslab.spec.shortcut import get_shortcut, parse_merge
from reslab.spec.stem_head import check_head, check_stem, conv_width


@dataclass(frozen=True)
class ConvSpec:
    """One convolution of a branch."""

    kernel: int
    in_channels: int
    out_channels: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class BlockSpec:
    """One unit: its name (`layer1.0`), place, convolutions, what its shortcut is and where its leading words stand.

    `match` is the kind of the shortcut's module: `identity`, `none` in a plain twin, or one of `reslab.spec.shortcut`.
    `ahead`: the leading words stand ahead of the fork. `bare`: the unit goes without them.
    """

    name: str
    index: int
    num_blocks: int
    convs: tuple[ConvSpec, ...]
    ops: BlockOps
    shortcut: str
    stride: int
    dilation: int
    shared_preact: bool
    skip_preact: bool

    @property
    def in_channels(self) -> int:
        """Channels the unit takes."""
        return self.convs[0].in_channels

    @property
    def out_channels(self) -> int:
        """Channels the unit gives."""
        return self.convs[-1].out_channels


def layout_stages(arch: Arch) -> tuple[tuple[BlockSpec, ...], ...]:
    """The units of each stage. Raises ValueError, with the reason, for a description that means nothing."""
    _check_arch(arch)
    block_widths = _block_widths(arch)
    ops = parse_order(arch.order_spec.layout, len(arch.convs))
    channels, dilation, index = stem_channels(arch), 1, 0
    stages = []
    for stage, depth in enumerate(arch.depths):
        stride, previous_dilation = arch.strides[stage], dilation
        if stage and arch.replace_stride_with_dilation and arch.replace_stride_with_dilation[stage - 1]:
            dilation, stride = dilation * stride, 1
        blocks = []
        for i in range(depth):
            block_dilation = previous_dilation if i == 0 else dilation
            convs = _conv_specs(arch, channels, block_widths[index], stride if i == 0 else 1, block_dilation)
            blocks.append(_block_spec(arch, f"layer{stage + 1}.{i}", index, convs, ops, block_dilation))
            channels, index = convs[-1].out_channels, index + 1
        stages.append(tuple(blocks))
        _check_shared_weights(arch, stages[-1])
    return tuple(stages)


def _block_spec(
    arch: Arch, name: str, index: int, convs: tuple[ConvSpec, ...], ops: BlockOps, dilation: int
) -> BlockSpec:
    stride = math.prod(conv.stride for conv in convs)
    changes_shape = stride != 1 or convs[0].in_channels != convs[-1].out_channels
    shortcut = get_shortcut(arch.shortcut)
    kind = shortcut.kind if changes_shape or shortcut.on_every_block else "identity"
    order = arch.order_spec
    conditions = {
        "changes": changes_shape,
        "projects": kind != "identity" and shortcut.has_weights,
        "first": index == 0,
    }
    if parse_merge(arch.merge).op.name == "none":
        kind = "none"
    if kind in ("pad", "pad-split", "avg-pad") and convs[-1].out_channels < convs[0].in_channels:
        got = f"{convs[0].in_channels} to {convs[-1].out_channels} in {name}"
        raise invalid(
            f"shortcut {arch.shortcut} where the width grows (zeros can be added, not taken away)",
            got,
            "shortcut=project",
        )
    return BlockSpec(
        name,
        index,
        arch.num_blocks,
        convs,
        ops,
        kind,
        stride,
        dilation,
        shared_preact=bool(ops.pre) and any(conditions[condition] for condition in order.shared_preact),
        skip_preact=order.skip_first_preact and index == 0,
    )


def _conv_specs(arch: Arch, in_channels: int, width: int, stride: int, dilation: int) -> tuple[ConvSpec, ...]:
    inner_width = int(width * (arch.width_per_group / 64.0)) * arch.groups
    if inner_width < 1:
        got = f"width_per_group={arch.width_per_group} with width {width}"
        raise invalid("width_per_group of at least 64 / width", got, f"width_per_group={-(-64 // width)}")
    stride_conv = arch.stride_conv or next((i for i, kernel in enumerate(arch.convs, 1) if kernel > 1), 1)
    convs = []
    for conv_number, kernel in enumerate(arch.convs, 1):
        out_channels = width * arch.expansion if conv_number == len(arch.convs) else inner_width
        groups = arch.groups if kernel > 1 else 1
        if in_channels % groups or out_channels % groups:
            got = f"{in_channels} -> {out_channels} channels"
            raise invalid(
                f"widths divisible by groups={groups} in every {kernel}x{kernel} convolution",
                got,
                f"groups={math.gcd(in_channels, out_channels)}",
            )
        convs.append(
            ConvSpec(
                kernel,
                in_channels,
                out_channels,
                stride if conv_number == stride_conv else 1,
                groups,
                dilation if kernel > 1 else 1,
            )
        )
        in_channels = out_channels
    return tuple(convs)


def _block_widths(arch: Arch) -> list[int]:
    if not isinstance(arch.widths, str):
        return [width for width, depth in zip(arch.widths, arch.depths, strict=True) for _ in range(depth)]
    start, growth = parse_width_law(arch.widths)
    widths = [round(start + growth * (k + 1) / arch.num_blocks) for k in range(arch.num_blocks)]
    if min(widths, default=1) < 1:
        raise invalid("a width law that stays at 1 or above", f"{arch.widths} down to {min(widths)}", "additive(16,48)")
    return widths


def parse_width_law(law: str) -> tuple[float, float]:
    """Start and growth of `additive(start,growth)`; ValueError for any other law."""
    ops = parse_ops(law)
    if len(ops) == 1 and ops[0].name == "additive" and len(ops[0].args) == 2:
        start, growth = ops[0].args
        if isinstance(start, int | float) and isinstance(growth, int | float):
            return float(start), float(growth)
    raise invalid("widths as one number a stage, or the law additive(START,GROWTH)", repr(law), "additive(16,48)")


def stem_channels(arch: Arch) -> int:
    """Channels that the stem hands to the first unit."""
    channels = arch.in_channels
    for op in arch.stem_ops:
        if op.name == "conv":
            channels = conv_width(op)
    return channels


def _positive_sizes(arch: Arch) -> Iterator[tuple[str, int]]:
    yield from (("num_classes", arch.num_classes), ("in_channels", arch.in_channels), ("groups", arch.groups))
    yield from (("expansion", arch.expansion), ("width_per_group", arch.width_per_group))
    for name in ("depths", "strides", "convs", "image_size"):
        yield from ((name, size) for size in getattr(arch, name))
    if not isinstance(arch.widths, str):
        yield from (("widths", size) for size in arch.widths)


def _check_arch(arch: Arch) -> None:
    for name, size in _positive_sizes(arch):
        if size < 1:
            raise invalid(f"{name} of whole numbers from 1", size, "1")
    num_stages = len(arch.depths)
    for name in ("widths", "strides"):
        values = getattr(arch, name)
        if not isinstance(values, str) and len(values) != num_stages:
            raise invalid(
                f"{name} with one number for each of the {num_stages} stages in depths={arch.depths}",
                f"{name}={values}",
                next_step=f"set {name} too",
            )
    if not arch.convs and num_stages:
        raise invalid("a branch of at least one convolution", arch.convs, "(3, 3)")
    even_kernels = [kernel for kernel in arch.convs if kernel % 2 == 0]
    if even_kernels:
        raise invalid("odd kernels, so that shapes stay", even_kernels[0], str(even_kernels[0] + 1))
    if not 0 <= arch.stride_conv <= len(arch.convs):
        raise invalid(
            f"stride_conv between 0 and {len(arch.convs)}, the number of convolutions",
            arch.stride_conv,
            str(len(arch.convs)),
        )
    _check_numbers(arch)
    _check_dilation(arch, num_stages)
    check_stem(arch.stem)
    check_head(arch.head)
    if arch.norm == "none" and arch.last_norm_weight != 1.0:
        raise invalid(
            "last_norm_weight=1 with norm=none (there is no norm to weigh)", arch.last_norm_weight, "merge=skipinit"
        )


def _check_numbers(arch: Arch) -> None:
    if not 0 <= arch.drop_rate < 1:
        raise invalid("drop_rate in [0, 1)", arch.drop_rate, "0.3")
    if not 0 < arch.norm_eps < math.inf:
        raise invalid("norm_eps above 0", arch.norm_eps, "1e-5")
    if not 0 <= arch.norm_momentum <= 1:
        raise invalid("norm_momentum in [0, 1]", arch.norm_momentum, "0.1")
    if not 0 < arch.se_ratio <= 1:
        raise invalid("se_ratio in (0, 1]", arch.se_ratio, "0.0625")
    if not math.isfinite(arch.last_norm_weight):
        raise invalid("last_norm_weight as a finite number", arch.last_norm_weight, "0")
    if len(arch.image_size) != 2:
        raise invalid("image_size as height,width", arch.image_size, "224,224")


def dilation_requirement(num_stages: int) -> str:
    """What `replace_stride_with_dilation` has to be for so many stages, in words."""
    names = ", ".join(f"layer{stage}" for stage in range(2, num_stages + 1))
    return f"replace_stride_with_dilation with {num_stages - 1} truth values, one each for {names}"


def _check_dilation(arch: Arch, num_stages: int) -> None:
    flags = arch.replace_stride_with_dilation
    if flags and len(flags) != num_stages - 1:
        suggestion = str(tuple((list(flags) + [False] * num_stages)[: num_stages - 1]))
        raise invalid(dilation_requirement(num_stages), flags, suggestion)


def _check_shared_weights(arch: Arch, blocks: tuple[BlockSpec, ...]) -> None:
    """Units that share their weights are one unit run several times, so nothing may tell them apart."""
    if not arch.share_weights:
        return
    first = blocks[0]
    if any(block.convs != first.convs or block.shortcut != first.shortcut for block in blocks):
        raise invalid(
            "shared units of one shape (stride 1, as wide as what comes in)",
            f"{first.name} changes the shape",
            "share_weights=false",
        )
    if any((block.shared_preact, block.skip_preact) != (first.shared_preact, first.skip_preact) for block in blocks):
        raise invalid(
            "shared units with the same words ahead of the fork",
            f"order={arch.order}, whose first unit differs from the others",
            "order=original",
        )
    depth_dependent = [
        op.name for op in parse_merge(arch.merge).branch_modifiers if op.name in ("stochastic-depth", "drop-path")
    ]
    if depth_dependent and len(blocks) > 1:
        raise invalid(
            "shared units of one rate", f"merge={arch.merge}, whose rate rises from unit to unit", "merge=add"
        )


def pool_stride(op: Op) -> int:
    """The stride of a pool word; a pool without one strides by its size, as torch.nn has it."""
    return op.stride or op.size or 1


def op_stride(op: Op) -> int:
    """By what a word of a stem or head divides height and width."""
    return pool_stride(op) if is_pool(op) else op.stride or 1


def is_pool(op: Op) -> bool:
    """Whether the word pools."""
    return op.name in ("maxpool", "avgpool")


def has_global_pool(ops: Iterable[Op]) -> bool:
    """Whether one of the words pools each map to one number (`avgpool` without a size)."""
    return any(is_pool(op) and op.size is None for op in ops)


def total_stride(arch: Arch) -> int:
    """By how much height and width shrink from the input to the last unit."""
    stem_stride = math.prod(op_stride(op) for op in arch.stem_ops)
    return stem_stride * math.prod(block.stride for stage in layout_stages(arch) for block in stage)


def num_positions(arch: Arch, head_ops: Iterable[Op]) -> int:
    """Height times width of the maps that leave the words `head` for an input of the architecture's image size.

    Raises ValueError where nothing is left of them.
    """
    head_ops = tuple(head_ops)
    if has_global_pool(head_ops):
        return 1
    strides = [(op_stride(op), _rounds_up(op)) for op in arch.stem_ops]
    strides += [(block.stride, True) for stage in layout_stages(arch) for block in stage]
    strides += [(op_stride(op), _rounds_up(op)) for op in head_ops]
    sides = list(arch.image_size)
    for stride, rounds_up in strides:
        sides = [-(-side // stride) if rounds_up else side // stride for side in sides]
    if min(sides) < 1:
        raise invalid(
            f"images that leave {arch.name} a map", "x".join(map(str, arch.image_size)), "32x32", "set image_size"
        )
    return sides[0] * sides[1]


def _rounds_up(op: Op) -> bool:
    """Odd windows are padded and round up, `maxpool2` has nothing to pad with and rounds down."""
    return not is_pool(op) or (op.size or 1) % 2 == 1


def receptive_field(arch: Arch) -> int:
    """Input pixels, along one side, that one place of the last unit's output depends on, through the branches.

    r = 1 + sum over convolutions and pools of (kernel - 1) * dilation * (product of the strides before it);
    Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", equation (2).
    """
    size, jump = 1, 1
    for kernel, stride, dilation in _windows(arch):
        size += (kernel - 1) * dilation * jump
        jump *= stride
    return size


def _windows(arch: Arch) -> Iterator[tuple[int, int, int]]:
    """Kernel, stride and dilation of every window from the input to the last unit, in order."""
    for op in arch.stem_ops:
        if op.name == "conv" or (is_pool(op) and op.size):
            yield op.size or 3, op_stride(op), 1
    for stage in layout_stages(arch):
        for block in stage:
            yield from ((conv.kernel, conv.stride, conv.dilation) for conv in block.convs)
