"""From an architecture to its blocks: every channel, stride and dilation, sizes along the way, and the checks.

Every rule that concerns several axes is checked here; an invalid architecture raises ValueError with the reason.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.order import (
    BlockOps,
    Order,
    check_head,
    check_stem,
    get_order,
    has_global_pool,
    is_pool,
    op_stride,
    parse_layout,
    stem_conv_width,
)
from reslab.spec.shortcut import (
    DEPTH_DEPENDENT_MODIFIERS,
    MergeSpec,
    ShortcutKind,
    ShortcutType,
    get_shortcut,
    parse_merge,
)


@dataclass(frozen=True)
class ConvSpec:
    """One convolution."""

    kernel: int
    in_channels: int
    out_channels: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class BlockSpec:
    """Everything that building one block needs.

    * `name` (`layer1.0`), `index` (from 0) among `num_blocks`.
    * `convs`, `ops`: the convolutions and the operations of the branch.
    * `shortcut`, `merge`: how the shortcut gets the branch's shape, and how the two merge.
    * `shared_preact`: the operations ahead of the first convolution come ahead of the fork; `skip_preact`: the block
      goes without them; `projection_norm`: a projection on the shortcut has a norm.
    """

    name: str
    index: int
    num_blocks: int
    convs: tuple[ConvSpec, ...]
    ops: BlockOps
    shortcut: ShortcutKind
    merge: MergeSpec
    stride: int
    dilation: int
    shared_preact: bool
    skip_preact: bool
    projection_norm: bool

    @property
    def in_channels(self) -> int:
        """Channels of the block's input."""
        return self.convs[0].in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the block's output."""
        return self.convs[-1].out_channels


Stages = tuple[tuple[BlockSpec, ...], ...]


@dataclass(frozen=True)
class _BlockDesign:
    """What all blocks of a network share, parsed once."""

    order: Order
    ops: BlockOps
    shortcut: ShortcutType
    merge: MergeSpec


def layout_stages(arch: Arch) -> Stages:
    """Return the blocks of each stage. Raises ValueError, with the reason, for an invalid architecture."""
    _check_arch(arch)
    block_widths = _block_widths(arch)
    order = get_order(arch.order)
    ops = parse_layout(order.layout, len(arch.convs))
    design = _BlockDesign(order, ops, get_shortcut(arch.shortcut), parse_merge(arch.merge))
    channels, dilation, index = stem_channels(arch), 1, 0
    stages = []
    for stage, depth in enumerate(arch.depths):
        stride, previous_dilation = arch.strides[stage], dilation
        if stage and arch.replace_stride_with_dilation and arch.replace_stride_with_dilation[stage - 1]:
            dilation, stride = dilation * stride, 1
        blocks = []
        for i in range(depth):
            # As in torchvision, the first block keeps the dilation of the stage before: its input has that spacing.
            block_dilation = previous_dilation if i == 0 else dilation
            convs = _conv_specs(arch, channels, block_widths[index], stride if i == 0 else 1, block_dilation)
            blocks.append(_block_spec(arch, design, f"layer{stage + 1}.{i}", index, convs, dilation=block_dilation))
            channels, index = convs[-1].out_channels, index + 1
        stages.append(tuple(blocks))
        if arch.share_weights:
            _check_shared_weights(arch, design.merge, stages[-1])
    return tuple(stages)


def _block_spec(
    arch: Arch, design: _BlockDesign, name: str, index: int, convs: tuple[ConvSpec, ...], *, dilation: int
) -> BlockSpec:
    stride = math.prod(conv.stride for conv in convs)
    changes_shape = stride != 1 or convs[0].in_channels != convs[-1].out_channels
    needs_module = changes_shape or design.shortcut.on_every_block
    kind = design.shortcut.kind if needs_module else ShortcutKind.IDENTITY
    # A plain twin keeps its operations where the residual network has them, so the conditions come ahead of `none`.
    conditions = {"changes": changes_shape, "projects": kind.has_weights, "first": index == 0}
    if design.merge.op.name == "none":
        kind = ShortcutKind.NONE
    if kind.pads and convs[-1].out_channels < convs[0].in_channels:
        required = f"shortcut {arch.shortcut} where the width grows (zeros can be added, not taken away)"
        got = f"{convs[0].in_channels} to {convs[-1].out_channels} in {name}"
        raise invalid(required, got, "shortcut=project")
    return BlockSpec(
        name=name,
        index=index,
        num_blocks=arch.num_blocks,
        convs=convs,
        ops=design.ops,
        shortcut=kind,
        merge=design.merge,
        stride=stride,
        dilation=dilation,
        shared_preact=bool(design.ops.pre) and any(conditions[condition] for condition in design.order.shared_preact),
        skip_preact=design.order.skip_first_preact and index == 0,
        projection_norm=design.order.projection_norm,
    )


def _conv_specs(arch: Arch, in_channels: int, width: int, stride: int, dilation: int) -> tuple[ConvSpec, ...]:
    inner_width = int(width * (arch.width_per_group / 64.0)) * arch.groups
    if inner_width < 1:
        got = f"width_per_group={arch.width_per_group} with width {width}"
        raise invalid("width_per_group of at least 64 / width", got, f"width_per_group={-(-64 // width)}")
    stride_conv = strided_conv(arch)
    convs = []
    for conv_number, kernel in enumerate(arch.convs, 1):
        out_channels = width * arch.expansion if conv_number == len(arch.convs) else inner_width
        groups = arch.groups if kernel > 1 else 1
        if in_channels % groups or out_channels % groups:
            raise invalid(
                f"widths divisible by groups={groups} in every {kernel}x{kernel} convolution",
                f"{in_channels} -> {out_channels} channels",
                f"groups={math.gcd(in_channels, out_channels)}",
            )
        conv = ConvSpec(
            kernel,
            in_channels,
            out_channels,
            stride=stride if conv_number == stride_conv else 1,
            groups=groups,
            dilation=dilation if kernel > 1 else 1,
        )
        convs.append(conv)
        in_channels = out_channels
    return tuple(convs)


def strided_conv(arch: Arch) -> int:
    """Return the number of the strided convolution, from 1; by default the first one with a kernel above 1."""
    return arch.stride_conv or next((i for i, kernel in enumerate(arch.convs, 1) if kernel > 1), 1)


def _block_widths(arch: Arch) -> list[int]:
    if not isinstance(arch.widths, str):
        return [width for width, depth in zip(arch.widths, arch.depths, strict=True) for _ in range(depth)]
    start, growth = parse_width_law(arch.widths)
    widths = [round(start + growth * (k + 1) / arch.num_blocks) for k in range(arch.num_blocks)]
    if min(widths, default=1) < 1:
        raise invalid("a width law that stays at 1 or above", f"{arch.widths} down to {min(widths)}", "additive(16,48)")
    return widths


def parse_width_law(law: str) -> tuple[float, float]:
    """Return start and growth of `additive(start,growth)`. Raises ValueError for any other law."""
    ops = parse_ops(law)
    if len(ops) == 1 and ops[0].name == "additive" and len(ops[0].args) == 2:
        start, growth = ops[0].args
        if isinstance(start, int | float) and isinstance(growth, int | float):
            return float(start), float(growth)
    raise invalid("widths as one number per stage, or the law additive(START,GROWTH)", repr(law), "additive(16,48)")


def stem_ops(arch: Arch) -> tuple[Op, ...]:
    """Return the operations of the stem, with those after its last convolution replaced by the order's.

    So the stem of a pre-activated network ends with its convolution, whatever the axis `stem` says.
    """
    ops = parse_ops(arch.stem)
    conv_indices = [i for i, op in enumerate(ops) if op.name == "conv"]
    if not conv_indices:
        return ops
    end = conv_indices[-1] + 1
    rest_start = end
    while rest_start < len(ops) and ops[rest_start].name in ("norm", "act", "bias"):
        rest_start += 1
    return ops[:end] + parse_ops(get_order(arch.order).stem_ops) + ops[rest_start:]


def stem_channels(arch: Arch) -> int:
    """Return the number of channels that the stem gives to the first block."""
    channels = arch.in_channels
    for op in stem_ops(arch):
        if op.name == "conv":
            channels = stem_conv_width(op)
    return channels


def _positive_sizes(arch: Arch) -> Iterator[tuple[str, int]]:
    for name in ("num_classes", "in_channels", "groups", "expansion", "width_per_group"):
        yield name, getattr(arch, name)
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
            required = f"{name} with one number for each of the {num_stages} stages in depths={arch.depths}"
            raise invalid(required, f"{name}={values}", next_step=f"set {name} too")
    _check_convs(arch)
    _check_numbers(arch)
    _check_dilation(arch, num_stages)
    check_stem(arch.stem)
    check_head(arch.head)
    if arch.norm == "none" and arch.last_norm_weight != 1.0:
        required = "last_norm_weight=1 with norm=none (there is no norm with a weight)"
        raise invalid(required, arch.last_norm_weight, "merge=skipinit")


def _check_convs(arch: Arch) -> None:
    num_convs = len(arch.convs)
    if not num_convs and arch.depths:
        raise invalid("a branch of at least one convolution", arch.convs, "(3, 3)")
    even_kernels = [kernel for kernel in arch.convs if kernel % 2 == 0]
    if even_kernels:
        raise invalid(
            "odd kernels, so that only the stride changes the size", even_kernels[0], str(even_kernels[0] + 1)
        )
    if not 0 <= arch.stride_conv <= num_convs:
        required = f"stride_conv between 0 and {num_convs}, the number of convolutions"
        raise invalid(required, arch.stride_conv, str(num_convs))


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
    """Return a text that says what `replace_stride_with_dilation` needs for this number of stages."""
    names = ", ".join(f"layer{stage}" for stage in range(2, num_stages + 1))
    return f"replace_stride_with_dilation with {num_stages - 1} truth values, one each for {names}"


def _check_dilation(arch: Arch, num_stages: int) -> None:
    flags = arch.replace_stride_with_dilation
    if flags and len(flags) != num_stages - 1:
        suggestion = str(tuple((list(flags) + [False] * num_stages)[: num_stages - 1]))
        raise invalid(dilation_requirement(num_stages), flags, suggestion)


def _check_shared_weights(arch: Arch, merge: MergeSpec, blocks: tuple[BlockSpec, ...]) -> None:
    """Raise ValueError unless all blocks of a stage are alike: with shared weights, one block runs several times."""
    first = blocks[0]
    if any(block.convs != first.convs or block.shortcut != first.shortcut for block in blocks):
        required = "shared blocks of one shape (stride 1, as many output as input channels)"
        raise invalid(required, f"{first.name} changes the shape", "share_weights=false")
    if any((block.shared_preact, block.skip_preact) != (first.shared_preact, first.skip_preact) for block in blocks):
        required = "shared blocks with the same operations ahead of the fork"
        raise invalid(required, f"order={arch.order}, whose first block differs from the others", "order=original")
    if len(blocks) > 1 and any(op.name in DEPTH_DEPENDENT_MODIFIERS for op in merge.branch_modifiers):
        required = "shared blocks with one rate"
        raise invalid(required, f"merge={arch.merge}, whose rate changes from block to block", "merge=add")


def total_stride(arch: Arch, stages: Stages) -> int:
    """Return the factor by which height and width shrink from the input to the last block."""
    stem_stride = math.prod(op_stride(op) for op in stem_ops(arch))
    return stem_stride * math.prod(block.stride for stage in stages for block in stage)


def num_positions(arch: Arch, stages: Stages, head_ops: Iterable[Op]) -> int:
    """Return height times width of the maps after the operations `head_ops`, for the architecture's image size.

    Raises ValueError if the maps vanish.
    """
    head_ops = tuple(head_ops)
    if has_global_pool(head_ops):
        return 1
    strides = [(op_stride(op), _rounds_up(op)) for op in stem_ops(arch)]
    strides += [(block.stride, True) for stage in stages for block in stage]
    strides += [(op_stride(op), _rounds_up(op)) for op in head_ops]
    sides = list(arch.image_size)
    for stride, rounds_up in strides:
        sides = [-(-side // stride) if rounds_up else side // stride for side in sides]
    if min(sides) < 1:
        required = f"images large enough for {arch.name}"
        raise invalid(required, "x".join(map(str, arch.image_size)), "32x32", "set image_size")
    return sides[0] * sides[1]


def _rounds_up(op: Op) -> bool:
    """Odd windows are padded, so the size rounds up; `maxpool2` has no padding and rounds down."""
    return not is_pool(op) or (op.size or 1) % 2 == 1


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
    for stage in layout_stages(arch):
        for block in stage:
            yield from ((conv.kernel, conv.stride, conv.dilation) for conv in block.convs)
