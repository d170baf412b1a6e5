"""From an architecture to its blocks: every channel, stride and dilation, and the checks.

Every rule that concerns several axes is checked here; an invalid architecture raises ValueError with the reason.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reslab.spec.arch import Arch, ConvRule, ConvSpec, parse_convs
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op, evaluate, parse_ops, split_outside_brackets
from reslab.spec.operations import Place, dilates_with_block, is_pool
from reslab.spec.order import (
    BlockOps,
    Order,
    check_head,
    check_op,
    check_stem,
    check_transition,
    conv_width,
    get_order,
    op_stride,
    parse_layout,
)
from reslab.spec.shortcut import (
    IDENTITY_SHORTCUT,
    MERGE_OPS,
    SHORTCUTS,
    MergeSpec,
    ShortcutType,
    get_shortcut,
    merge_args,
    parse_merge,
)


@dataclass(frozen=True)
class BlockSpec:
    """Everything that building one block needs.

    * `name` (`layer1.0`), `index` (from 0) among `num_blocks`.
    * `convs`, `ops`: the convolutions and the operations of the branch; `branches`: the number of parallel branches,
      all with these. `stride`: of the whole block; with
      `pool_takes_stride`, pools of the branch make it in place of a convolution.
      `dilation`: of the convolutions up to the one that takes the stride; `next_dilation`: of those after it, which is
      larger where dilation replaces the stride.
    * `shortcut`, `merge`: how the shortcut gets the branch's shape (None in a plain twin), and how the two merge.
      `changes_path`: the shortcut is not the identity (in a plain twin: would not be).
    * `expected_std`: the standard deviation of the block's input that the merges before it lead to, if every branch has
      unit variance; a first block of a stage sets it to 1 (Brock et al. 2021, arXiv:2101.08692, Sec. 3).
    * `shared_preact`: the operations ahead of the first convolution come ahead of the fork; `skip_preact`: the block
      goes without them; `projection_norm`: a projection on the shortcut has a norm.
    """

    name: str
    index: int
    num_blocks: int
    convs: tuple[ConvSpec, ...]
    ops: BlockOps
    shortcut: ShortcutType | None
    merge: MergeSpec
    stride: int
    dilation: int
    next_dilation: int
    pool_takes_stride: bool
    changes_path: bool
    shared_preact: bool
    skip_preact: bool
    projection_norm: bool
    expected_std: float = 1.0
    branches: int = 1

    def has_pool(self, op: Op) -> bool:
        """Return True if the block has this pool of its expression.

        One with a stride of its own is in every block; others are where the block has a stride, and blurs also where a
        dilation replaces it (as in timm).
        """
        is_dilated = self.dilation != self.next_dilation
        return op.stride is not None or self.stride > 1 or (is_dilated and dilates_with_block(op))

    @property
    def in_channels(self) -> int:
        """Channels of the block's input."""
        return self.convs[0].in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the block's output."""
        return self.convs[-1].out_channels

    @property
    def has_identity_shortcut(self) -> bool:
        """True if the shortcut is the block's input itself."""
        return self.shortcut is not None and not self.changes_path


Stages = tuple[tuple[BlockSpec, ...], ...]


@dataclass(frozen=True)
class _StageDesign:
    """The design that all blocks of a stage share, parsed once."""

    order: Order
    ops: BlockOps
    rules: tuple[ConvRule, ...]
    shortcut: ShortcutType
    merge: MergeSpec
    group_width: int
    pool_takes_stride: bool


def layout_stages(arch: Arch) -> Stages:
    """Return the blocks of each stage. Raises ValueError, with the reason, for an invalid architecture."""
    _check_arch(arch)
    block_widths = _block_widths(arch)
    channels, dilation, index, variance = stem_channels(arch), 1, 0, 1.0
    stages = []
    for stage, (depth, design) in enumerate(zip(arch.depths, _stage_designs(arch), strict=True)):
        stride, previous_dilation = arch.strides[stage], dilation
        if stage and arch.replace_stride_with_dilation and arch.replace_stride_with_dilation[stage - 1]:
            dilation, stride = dilation * stride, 1
        if stage and arch.transition:  # whose convolution takes the stride, and the spacing of the stage before
            channels, stride, previous_dilation = block_widths[index] * arch.expansion, 1, dilation
        blocks = []
        for i in range(depth):
            # As in torchvision and timm, the first block starts with the spacing of the stage before.
            block = _block_spec(
                arch,
                design,
                f"layer{stage + 1}.{i}",
                index,
                channels=channels,
                width=block_widths[index],
                stride=stride if i == 0 else 1,
                dilation=previous_dilation if i == 0 else dilation,
                next_dilation=dilation,
                expected_std=math.sqrt(variance),
            )
            blocks.append(block)
            variance = (variance if i else 1.0) + _branch_factor(design.merge, arch.num_blocks) ** 2
            channels, index = block.out_channels, index + 1
        stages.append(tuple(blocks))
        if arch.share_weights:
            _check_shared_weights(arch, design.merge, stages[-1])
    return tuple(stages)


def _stage_designs(arch: Arch) -> list[_StageDesign]:
    num_stages = len(arch.depths)
    merge, shortcut = parse_merge(arch.merge), get_shortcut(arch.shortcut)
    if merge.combination is not None and arch.branches < 2:
        required = f"at least 2 branches with merge={merge.combination}"
        raise invalid(required, f"branches={arch.branches}", "branches=2")
    group_widths = arch.group_width if isinstance(arch.group_width, tuple) else (arch.group_width,) * num_stages
    designs = []
    for order, rules, group_width in zip(stage_orders(arch), arch.stage_convs, group_widths, strict=True):
        ops = parse_layout(order.layout, len(rules))
        num_pools = sum(is_pool(named_op.op) and named_op.op.stride is None for named_op in (*ops.pre, *ops.branch))
        if num_pools > 1:
            raise invalid("one pool in a branch that takes the block's stride", repr(order.layout))
        designs.append(_StageDesign(order, ops, rules, shortcut, merge, group_width, num_pools == 1))
    return designs


def stage_orders(arch: Arch) -> tuple[Order, ...]:
    """Return the order of each stage; the axis holds one for all, or one a stage, separated by `;`."""
    names, num_stages = [name.strip() for name in split_outside_brackets(arch.order, ";")], len(arch.depths)
    if len(names) not in (1, num_stages):
        required = f"one order for all stages, or {num_stages} separated by ';'"
        raise invalid(required, repr(arch.order), repr(names[0]))
    return tuple(get_order(name) for name in (names * num_stages if len(names) == 1 else names))


def order_text(arch: Arch) -> str:
    """Return the layout of a block; one for each stage, separated by `;`, where they differ."""
    layouts = [order.layout for order in stage_orders(arch)] or [get_order(arch.order).layout]
    return layouts[0] if len(set(layouts)) == 1 else "; ".join(layouts)


def outer_orders(arch: Arch) -> tuple[Order, Order]:
    """Return the orders of the first and the last stage: they decide what ends the stem and what follows the blocks."""
    names = [name.strip() for name in split_outside_brackets(arch.order, ";")]
    return get_order(names[0]), get_order(names[-1])


def _branch_factor(merge: MergeSpec, num_blocks: int) -> float:
    """Return the factor of the branch in the merge."""
    return float(merge_args(merge.op, 1, num_blocks).get(MERGE_OPS[merge.op.name].branch_factor, 1.0))


def _block_spec(
    arch: Arch,
    design: _StageDesign,
    name: str,
    index: int,
    *,
    channels: int,
    width: int,
    stride: int,
    dilation: int,
    next_dilation: int,
    expected_std: float,
) -> BlockSpec:
    conv_stride = 1 if design.pool_takes_stride else stride
    convs = _conv_specs(arch, design, channels, width, conv_stride, (dilation, next_dilation), index == 0)
    changes_shape = stride != 1 or convs[0].in_channels != convs[-1].out_channels
    needs_module = changes_shape or design.shortcut.on_every_block
    shortcut = design.shortcut if needs_module else IDENTITY_SHORTCUT
    if shortcut.only_if_wider and convs[0].in_channels == convs[-1].out_channels:
        shortcut = SHORTCUTS["pad"]  # which adds no channels here
    has_shortcut = design.merge.uses_shortcut
    # A plain twin keeps its operations where the residual network has them, so the conditions come ahead of `none`.
    conditions = {
        "changes": changes_shape,
        "projects": shortcut.has_weights,
        "first": index == 0,
        "always": True,
    }
    if has_shortcut and shortcut.pads and convs[-1].out_channels < convs[0].in_channels:
        required = f"shortcut {arch.shortcut} where the width grows (zeros can be added, not taken away)"
        got = f"{convs[0].in_channels} to {convs[-1].out_channels} in {name}"
        raise invalid(required, got, "shortcut=project")
    return BlockSpec(
        name=name,
        index=index,
        num_blocks=arch.num_blocks,
        convs=convs,
        ops=design.ops,
        shortcut=shortcut if has_shortcut else None,
        merge=design.merge,
        stride=stride,
        dilation=dilation,
        next_dilation=next_dilation,
        pool_takes_stride=design.pool_takes_stride,
        changes_path=needs_module,
        shared_preact=bool(design.ops.pre) and any(conditions[condition] for condition in design.order.shared_preact),
        skip_preact=design.order.skip_first_preact and index == 0,
        projection_norm=design.order.projection_norm,
        expected_std=expected_std,
        branches=arch.branches,
    )


def _conv_specs(
    arch: Arch,
    design: _StageDesign,
    in_channels: int,
    width: int,
    stride: int,
    dilations: tuple[int, int],
    is_first: bool,
) -> tuple[ConvSpec, ...]:
    inner_width = int(width * (arch.width_per_group / 64.0)) * arch.groups
    if inner_width < 1:
        got = f"width_per_group={arch.width_per_group} with width {width}"
        raise invalid("width_per_group of at least 64 / width", got, f"width_per_group={-(-64 // width)}")
    stride_conv = strided_conv(arch, design.rules)
    names: dict[str, float] = {"in": in_channels, "w": width, "inner": inner_width, "out": width * arch.expansion}
    names |= {"g": design.group_width, "first": int(is_first)}
    convs = []
    for conv_number, rule in enumerate(design.rules, 1):
        default = width * arch.expansion if conv_number == len(design.rules) else inner_width
        out_channels = _whole_number(rule.width, names) if rule.width else default
        groups = _conv_groups(arch, design, rule, names, out_channels)
        if in_channels % groups or out_channels % groups:
            raise invalid(
                f"widths divisible by groups={groups} in every {rule.kernel}x{rule.kernel} convolution",
                f"{in_channels} -> {out_channels} channels",
                f"groups={math.gcd(in_channels, out_channels)}",
            )
        conv = ConvSpec(
            rule.kernel,
            in_channels,
            out_channels,
            stride=stride if conv_number == stride_conv else 1,
            groups=groups,
            dilation=dilations[conv_number > stride_conv] if rule.kernel > 1 else 1,
        )
        convs.append(conv)
        in_channels = out_channels
    return tuple(convs)


def _conv_groups(arch: Arch, design: _StageDesign, rule: ConvRule, names: dict[str, float], out_channels: int) -> int:
    if rule.groups:
        return _whole_number(rule.groups, names)
    if rule.kernel == 1:
        return 1
    return max(out_channels // design.group_width, 1) if design.group_width else arch.groups


def _whole_number(expression: str, names: dict[str, float]) -> int:
    value = evaluate(expression, names)
    if value < 1 or round(value) != value:
        got = ", ".join(f"{name}={names[name]:g}" for name in names)
        raise invalid("a width of whole channels from 1", f"{expression} = {value:g} with {got}", "divisible(...)")
    return int(value)


def strided_conv(arch: Arch, rules: tuple[ConvRule, ...]) -> int:
    """Return the number of the strided convolution, from 1; by default the first one with a kernel above 1."""
    return arch.stride_conv or next((i for i, rule in enumerate(rules, 1) if rule.kernel > 1), 1)


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
    return ops[:end] + parse_ops(outer_orders(arch)[0].stem_ops) + ops[rest_start:]


def final_ops(arch: Arch) -> tuple[Op, ...]:
    """Return the operations between the last block and the head: the axis `final`, or those of the order."""
    return parse_ops(outer_orders(arch)[1].final_ops if arch.final is None else arch.final)


def stem_channels(arch: Arch) -> int:
    """Return the number of channels that the stem gives to the first block."""
    channels = arch.in_channels
    for op in stem_ops(arch):
        if op.name == "conv":
            channels = conv_width(op)
    return channels


def stem_stride(arch: Arch) -> int:
    """Return the number by which the stem divides the sides of its input."""
    return math.prod(op_stride(op) for op in stem_ops(arch))


def dilate(arch: Arch, output_stride: int) -> Arch:
    """Return the architecture with the strides beyond `output_stride` replaced by dilation.

    Raises ValueError for a stride that the network does not reach or pass on its way.
    """
    stride = stem_stride(arch) * arch.strides[0]
    reached, flags = [stride], list[bool]()
    for stage_stride in arch.strides[1:]:
        flags.append(stride * stage_stride > output_stride)
        stride *= 1 if flags[-1] else stage_stride
        reached.append(reached[-1] * stage_stride)
    if stride != output_stride:
        valid = sorted(set(reached))
        nearest = min(valid, key=lambda value: abs(value - output_stride))
        required = f"output_stride of {arch.name} as one of {', '.join(map(str, valid))}"
        raise invalid(required, output_stride, f"output_stride={nearest}")
    return replace(arch, replace_stride_with_dilation=tuple(flags))


def _positive_sizes(arch: Arch) -> Iterator[tuple[str, int]]:
    for name in ("num_classes", "in_channels", "branches", "groups", "expansion", "width_per_group"):
        yield name, getattr(arch, name)
    for name in ("depths", "strides", "image_size"):
        yield from ((name, size) for size in getattr(arch, name))
    yield from (("convs", rule.kernel) for rules in parse_convs(arch.convs) for rule in rules)
    if not isinstance(arch.widths, str):
        yield from (("widths", size) for size in arch.widths)


def _check_arch(arch: Arch) -> None:
    for name, size in _positive_sizes(arch):
        if size < 1:
            raise invalid(f"{name} of whole numbers from 1", size, "1")
    num_stages = len(arch.depths)
    for name in ("widths", "strides", "group_width"):
        values = getattr(arch, name)
        if isinstance(values, tuple) and len(values) != num_stages:
            required = f"{name} with one number for each of the {num_stages} stages in depths={arch.depths}"
            raise invalid(required, f"{name}={values}", next_step=f"set {name} too")
    _check_convs(arch)
    _check_numbers(arch)
    _check_dilation(arch, num_stages)
    check_stem(arch.stem)
    check_transition(arch.transition)
    check_head(arch.head)
    for op in final_ops(arch):
        check_op(op, Place.HEAD)
    if arch.norm == "none" and arch.last_norm_weight != 1.0:
        required = "last_norm_weight=1 with norm=none (there is no norm with a weight)"
        raise invalid(required, arch.last_norm_weight, "merge=skipinit")


def _check_convs(arch: Arch) -> None:
    for rules in parse_convs(arch.convs):
        if not rules and arch.depths:
            raise invalid("a branch of at least one convolution", arch.convs, "(3, 3)")
        even_kernels = [rule.kernel for rule in rules if rule.kernel % 2 == 0]
        if even_kernels:
            required = "odd kernels, so that only the stride changes the size"
            raise invalid(required, even_kernels[0], str(even_kernels[0] + 1))
        if not 0 <= arch.stride_conv <= len(rules):
            required = f"stride_conv between 0 and {len(rules)}, the number of convolutions"
            raise invalid(required, arch.stride_conv, str(len(rules)))


def _check_numbers(arch: Arch) -> None:
    if not 0 <= arch.drop_rate < 1:
        raise invalid("drop_rate in [0, 1)", arch.drop_rate, "0.3")
    # Frozen statistics are those of a trained network, which are not 0.
    if not 0 <= arch.norm_eps < math.inf or (arch.norm_eps == 0 and arch.norm != "frozen"):
        raise invalid("norm_eps above 0, or 0 with norm=frozen", arch.norm_eps, "1e-5")
    if not 0 <= arch.norm_momentum <= 1:
        raise invalid("norm_momentum in [0, 1]", arch.norm_momentum, "0.1")
    if not 0 < arch.se_ratio <= 1:
        raise invalid("se_ratio in (0, 1]", arch.se_ratio, "0.0625")
    if not math.isfinite(arch.last_norm_weight):
        raise invalid("last_norm_weight as a finite number", arch.last_norm_weight, "0")
    if arch.dims not in (1, 2, 3):
        raise invalid("dims of 1 (signals), 2 (images) or 3 (volumes)", arch.dims, "2")
    if len(arch.image_size) != arch.dims:
        required = f"image_size with {arch.dims} side{'s' if arch.dims > 1 else ''}"
        raise invalid(required, arch.image_size, ",".join(["224"] * arch.dims))


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
    if len(blocks) > 1 and merge.varies_with_depth:
        required = "shared blocks with one rate"
        raise invalid(required, f"merge={arch.merge}, whose rate changes from block to block", "merge=add")
