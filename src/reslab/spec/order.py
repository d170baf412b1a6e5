"""The order of operations: the layouts of a block (orders), and the expressions of stem and head.

A layout is an expression in which `+` marks the merge of shortcut and branch. `|` separates segments of one convolution
each: of two segments, the first is repeated for all convolutions but the last; of three, the middle one is repeated.
Without `|` the layout is written out in full.

    conv norm act | conv norm + act          He et al. 2015
    norm act conv | norm act conv +          He et al. 2016, Fig. 4(e)
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.operations import Family, Place, get_operation, is_pool, layer_names, parse_kind
from reslab.spec.plugins import Table

PREACT_CONDITIONS = ("projects", "changes", "first", "always")


@dataclass(frozen=True)
class Order:
    """The layout of a block, and the properties that belong to it.

    * `shared_preact`: the blocks in which the operations ahead of the first convolution come ahead of the fork, so that
      the shortcut reads their output too: blocks whose shortcut `projects`, whose shape `changes`, the `first`
      block of the network, or `always`. Empty: in no block; the operations then belong to the branch.
    * `skip_first_preact`: the first block goes without these operations.
    * `stem_ops`: the operations after the stem's last convolution. `final_ops`: those after the last block.
    * `projection_norm`: projection shortcuts have a norm.
    """

    layout: str
    reference: str = ""
    shared_preact: tuple[str, ...] = ()
    skip_first_preact: bool = False
    stem_ops: str = "norm act"
    final_ops: str = ""
    projection_norm: bool = True


_PREACT = Order(
    "norm act conv | norm act conv +",
    "He et al. 2016, arXiv:1603.05027, Fig. 4(e) and appendix",
    shared_preact=("projects", "first"),
    stem_ops="",
    final_ops="norm act",
    projection_norm=False,
)

_ORDERS: dict[str, Order] = {
    "original": Order(
        "conv norm act | conv norm + act", "He et al. 2015, arXiv:1512.03385, Fig. 2; He et al. 2016, Fig. 4(a)"
    ),
    "bn-after-add": Order(
        "conv norm act | conv + norm act",
        "He et al. 2016, Fig. 4(b); the projection without norm is our reading",
        projection_norm=False,
    ),
    "relu-before-add": Order("conv norm act | conv norm act +", "He et al. 2016, Fig. 4(c)"),
    "relu-preact": Order(
        "act conv norm | act conv norm +",
        "He et al. 2016, Fig. 4(d); the operations of stem and end are our reading",
        shared_preact=("projects", "first"),
        stem_ops="norm",
        final_ops="act",
    ),
    "full-preact": _PREACT,
    "full-preact-identity": Order(
        _PREACT.layout,
        "timm models/resnetv2.py, PreActBasic: also the first block's shortcut is the identity unless it projects",
        shared_preact=("projects",),
        stem_ops="",
        final_ops="norm act",
        projection_norm=False,
    ),
    "full-preact-stem": Order(
        _PREACT.layout,
        "He et al. 2016 on ImageNet as fb.resnet.torch models/preresnet.lua: norm and activation before the max-pool",
        shared_preact=("projects",),
        skip_first_preact=True,
        final_ops="norm act",
        projection_norm=False,
    ),
    "full-preact-norm-stem": Order(
        _PREACT.layout,
        "github.com/osmr/pytorchcv, preresnet.py: norm and activation before the max-pool and in the first block",
        shared_preact=("projects",),
        final_ops="norm act",
        projection_norm=False,
    ),
    "wide": Order(
        "norm act conv | norm act drop conv +",
        "Zagoruyko and Komodakis 2016, arXiv:1605.07146, Sec. 2, Fig. 1(d)",
        shared_preact=("projects",),
        stem_ops="",
        final_ops="norm act",
        projection_norm=False,
    ),
    "pyramid": Order(
        "norm conv | norm act conv | norm act conv norm +",
        "Han, Kim and Kim 2017, arXiv:1610.02915, Fig. 6(d)",
        stem_ops="norm",
        final_ops="norm act",
        projection_norm=False,
    ),
    "se": Order("conv norm act | conv norm se + act", "Hu, Shen and Sun 2018, arXiv:1709.01507, Fig. 3"),
    "se-preact": Order(
        "norm act conv | norm act conv se(0.0625,divisor=1) +",
        "github.com/kuangliu/pytorch-cifar, models/senet.py: norm and activation after the stem, none at the end",
        shared_preact=("projects",),
        projection_norm=False,
    ),
    "norm-free-preact": Order(
        "act conv | act conv +",
        "De and Smith 2020, arXiv:2002.10444, Sec. 3 (SkipInit: the pre-activated unit without norms)",
        shared_preact=("projects", "first"),
        stem_ops="",
        final_ops="act",
        projection_norm=False,
    ),
    "fixup": Order(
        "bias conv bias act | bias conv scale bias + act",
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Fig. 1; a shortcut that changes the shape reads the first bias",
        shared_preact=("changes", "projects"),
        stem_ops="bias act",
        projection_norm=False,
    ),
    "regnetv": Order(
        "norm act conv | norm act conv se(0.25,of=in,divisor=1,act=silu) | norm act conv +",
        "timm models/regnet.py, PreBottleneck: every shortcut reads the output of norm and activation",
        shared_preact=("always",),
        stem_ops="",
        final_ops="act",
        projection_norm=False,
    ),
    "convnext": Order("conv norm | conv act | conv +", "Liu et al. 2022, arXiv:2201.03545, Fig. 4", stem_ops="norm"),
    "convnextv2": Order(
        "conv norm | conv act grn | conv +", "Woo et al. 2023, arXiv:2301.00808, Fig. 5", stem_ops="norm"
    ),
    "book": Order(
        "conv norm act +",
        "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, Sec. 8.5.3, ResBlock",
        stem_ops="act",
    ),
    "book-bare": Order(
        "conv act +",
        "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, Sec. 8.5.3, NetRes",
        stem_ops="act",
    ),
}
ORDERS: Table[Order] = Table("order", _ORDERS)


def register_order(name: str, order: Order | str, *, reference: str = "") -> Order:
    """Register an order, or a layout whose properties follow from it (`get_order`), for the axis `order`; return it.

    Raises ValueError for a name that is taken, and for a layout that is none.
    """
    value = get_order(order) if isinstance(order, str) else order
    value = replace(value, reference=reference) if reference else value
    parse_ops(value.layout)
    ORDERS.register(name, value)
    return value


@dataclass(frozen=True)
class NamedOp:
    """An operation of a block with its module's name (`conv1`, `bn1`, `act1`).

    `num_convs`: the number of convolutions up to and including this operation.
    """

    name: str
    op: Op
    num_convs: int


@dataclass(frozen=True)
class BlockOps:
    """A layout for a given number of convolutions.

    `pre`: the operations ahead of the first convolution; `branch`: the rest of the branch; `post`: after the merge.
    """

    pre: tuple[NamedOp, ...]
    branch: tuple[NamedOp, ...]
    post: tuple[NamedOp, ...]


def get_order(name: str) -> Order:
    """Return the order of this name, or one made from a layout.

    The properties of a layout follow from the operations ahead of its first convolution. Where there are some, the
    block is pre-activated: the stem ends with its convolution, these operations follow the last block, they come ahead
    of the fork in the first block and where the shortcut projects, and projections have no norm.
    Raises ValueError for text that is neither a name nor a layout.
    """
    if name in ORDERS:
        return ORDERS[name]
    ops = parse_ops(name) if "conv" in name else ()
    names = [op.name for op in ops]
    if "conv" not in names:
        raise unknown_name(
            "order", name, ORDERS, "or a layout such as 'conv norm act | conv norm + act' with its convolutions"
        )
    preact_ops = " ".join(str(op) for op in ops[: names.index("conv")])
    if preact_ops:
        return Order(
            name,
            reference="custom layout",
            shared_preact=("projects", "first"),
            stem_ops="",
            final_ops=preact_ops,
            projection_norm=False,
        )
    # The kind of a block's norm, such as `norm(ibn)`, is the block's alone; the stem has the network's.
    stem_ops = " ".join(
        role if role == "norm" else str(ops[names.index(role)]) for role in ("norm", "act") if role in names
    )
    return Order(name, reference="custom layout", stem_ops=stem_ops, projection_norm="norm" in names)


def parse_layout(layout: str, num_convs: int) -> BlockOps:
    """Return the operations of a branch of `num_convs` convolutions, named by role and number.

    Raises ValueError for a layout without exactly one `+`, with a convolution after it, with an unknown operation or
    with another number of convolutions.
    """
    branch_ops, post_ops = _split_at_merge(layout)
    expanded = _expand_segments(layout, branch_ops, num_convs)
    named_ops = _name_ops(expanded + post_ops)
    named_branch, named_post = named_ops[: len(expanded)], named_ops[len(expanded) :]
    first_conv = next(i for i, named_op in enumerate(named_branch) if named_op.op.name == "conv")
    return BlockOps(named_branch[:first_conv], named_branch[first_conv:], named_post)


_EXAMPLE_LAYOUT = repr(ORDERS["original"].layout)


def _split_at_merge(layout: str) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    ops = parse_ops(layout)
    names = [op.name for op in ops]
    known_names = (*layer_names(Place.BLOCK), "+", "|")
    for op in ops:
        if op.name not in known_names:
            raise unknown_name("operation in an order", op.name, known_names)
        check_op(op, Place.BLOCK)
    if names.count("+") != 1:
        raise invalid("an order with one '+', the merge of shortcut and branch", repr(layout), _EXAMPLE_LAYOUT)
    merge_index = names.index("+")
    if "conv" in names[merge_index:] or "|" in names[merge_index:]:
        raise invalid("an order with all convolutions before '+'", repr(layout), _EXAMPLE_LAYOUT)
    return ops[:merge_index], ops[merge_index + 1 :]


def _expand_segments(layout: str, branch_ops: tuple[Op, ...], num_convs: int) -> tuple[Op, ...]:
    segments: list[list[Op]] = [[]]
    for op in branch_ops:
        if op.name == "|":
            segments.append([])
        else:
            segments[-1].append(op)
    counts = [sum(op.name == "conv" for op in segment) for segment in segments]
    if len(segments) == 1:
        if counts[0] != num_convs:
            required = f"an order with {num_convs} convolutions, as the branch has"
            raise invalid(required, f"{counts[0]} in {layout!r}", _EXAMPLE_LAYOUT)
        return tuple(segments[0])
    if len(segments) > 3 or any(count != 1 for count in counts):
        required = "an order of two or three segments with one convolution each"
        raise invalid(required, repr(layout), _EXAMPLE_LAYOUT)
    leading_segments, last_segment = segments[:-1], segments[-1]
    repeated = [*leading_segments[:1], *([leading_segments[-1]] * max(num_convs - 2, 0))] if num_convs > 1 else []
    return tuple(op for segment in [*repeated, last_segment] for op in segment)


# timm names a block's attention without a number.
ATTENTION = ("se", "eca", "cbam", "gc", "spatial")
# torchvision names a norm `bn`, whatever its kind; the other operations keep their name.
_MODULE_NAMES = {"norm": "bn"}


def _name_ops(ops: tuple[Op, ...]) -> tuple[NamedOp, ...]:
    counts: Counter[str] = Counter()
    named_ops = []
    for op in ops:
        role = _MODULE_NAMES.get(op.name, op.name)
        counts[role] += 1
        unnumbered = op.name in ATTENTION and counts[role] == 1
        named_ops.append(NamedOp(role if unnumbered else f"{role}{counts[role]}", op, counts["conv"]))
    return tuple(named_ops)


def check_op(op: Op, place: Place) -> None:
    """Raise ValueError for an operation that cannot stand at this place, or with arguments it cannot take.

    Only pools, and the convolutions of stem, transition and head, have a size and a stride.
    """
    if op.name in ("+", "|") and place is Place.BLOCK:
        if op.size is not None or op.stride is not None or op.args:
            raise invalid(f"'{op.name}' alone", repr(str(op)), repr(op.name))
        return
    if op.name not in layer_names(place):
        raise unknown_name(f"operation in a {place}", op.name, layer_names(place))
    if op.stride == 0 or op.size == 0:
        raise invalid("sizes and strides from 1", repr(str(op)), repr(f"{op.name}3/2"))
    if op.name == "conv" and place is not Place.BLOCK:
        return
    if not is_pool(op) and (op.size is not None or op.stride is not None):
        raise invalid(f"'{op.name}' without a size or stride", repr(str(op)), repr(op.name))
    values = get_operation(Family.LAYER, op.name).bind(op)
    if op.name in ("conv", "norm", "act") and "kind" in values:
        parse_kind(Family(op.name), str(values["kind"]))


def pool_stride(op: Op) -> int:
    """Return the stride of a pool; without one it equals the size, as in torch.nn."""
    return op.stride or op.size or 1


def op_stride(op: Op) -> int:
    """Return the factor by which an operation of stem or head divides height and width."""
    return pool_stride(op) if is_pool(op) else op.stride or 1


def has_global_pool(ops: Iterable[Op]) -> bool:
    """Return whether an operation pools each map to one number (`avgpool` without a size)."""
    return any(is_pool(op) and op.size is None for op in ops)


def conv_width(op: Op) -> int:
    """Return the output width of a `conv3/2(32)` or `conv3(24, whitened)` of a stem or head.

    Raises ValueError without a width, for an unknown kind, or for an even kernel with another stride than its size
    (patches).
    """
    if len(op.args) not in (1, 2) or op.kwargs or not isinstance(op.args[0], int) or op.args[0] < 1:
        raise invalid(
            "a convolution of stem or head as convK/S(WIDTH) or convK/S(WIDTH, KIND)", repr(str(op)), "'conv3(16)'"
        )
    check_kernel(op)
    if kind := conv_kind(op):
        parse_kind(Family.CONV, kind)
    return op.args[0]


def conv_kind(op: Op) -> str:
    """Return the kind of a convolution of stem or head; empty for the network's own."""
    return str(op.args[1]) if len(op.args) > 1 else ""


def check_kernel(op: Op) -> None:
    """Raise ValueError for an even kernel, unless the stride is its size: patches that do not overlap."""
    if op.size is not None and op.size % 2 == 0 and op.stride != op.size:
        args = f"({op.args[0]})" if op.args else ""
        suggestion = f"'conv{op.size + 1}{args}' or 'conv{op.size}/{op.size}{args}'"
        raise invalid("an odd kernel, or a stride of its size (patches)", repr(str(op)), suggestion)


def check_stem(expression: str) -> None:
    """Raise ValueError for an operation that a stem cannot have, or with arguments it cannot take."""
    for op in parse_ops(expression):
        check_op(op, Place.STEM)
        if op.name == "conv":
            conv_width(op)
        elif is_pool(op) and not op.size:
            raise invalid("a stem's pool as maxpoolK/S", repr(str(op)), "'maxpool3/2'")


def check_transition(expression: str) -> None:
    """Raise ValueError for a transition that cannot be built; it has one convolution, whose width is the stage's."""
    ops = parse_ops(expression)
    for op in ops:
        check_op(op, Place.TRANSITION)
        if op.name == "conv" and (op.args or op.kwargs or op.stride):
            required = "a transition's convolution as convK (its width and stride are the stage's)"
            raise invalid(required, repr(str(op)), f"'conv{op.size or 2}'")
    if ops and sum(op.name == "conv" for op in ops) != 1:
        raise invalid("a transition with one convolution", repr(expression), "'norm conv2'")


def check_head(expression: str) -> None:
    """Raise ValueError for a head that cannot be built.

    Reasons: an unknown operation, a linear layer ahead of `flatten`, or a last linear layer with a width of its own
    (its width is `num_classes`).
    """
    ops = parse_ops(expression)
    is_flat = False
    for op in ops:
        check_op(op, Place.HEAD)
        needs_maps = is_pool(op) or op.name in ("flatten", "drop2d", "conv", "norm")
        if is_flat if needs_maps else not is_flat and op.name == "fc":
            required = "maps pooled, then flattened once, then linear layers"
            raise invalid(required, repr(expression), "'avgpool flatten fc'")
        is_flat = is_flat or op.name == "flatten"
        if op.name == "conv":
            conv_width(op)
    linear_ops = [op for op in ops if op.name == "fc"]
    if linear_ops and linear_ops[-1].args:
        required = "a last 'fc' without a width (its width is num_classes)"
        raise invalid(required, repr(expression), "'avgpool flatten fc'")
