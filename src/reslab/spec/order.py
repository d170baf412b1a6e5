"""Orders: in which order convolution, norm and activation stand in a unit.

An order is a sentence. `+` is the place where shortcut and branch meet; `|` parts the sentence into segments, one a
convolution: of two segments the first is repeated for all convolutions but the last, of three the middle one is
repeated; without `|` the sentence is spelt out in full.

    conv norm act | conv norm + act          He et al. 2015
    norm act conv | norm act conv +          He et al. 2016, Fig. 4(e)
"""

from collections import Counter
from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops

BLOCK_OPS = ("conv", "norm", "act", "drop", "drop2d", "se", "bias", "scale")
PREACT_CONDITIONS = ("projects", "changes", "first")


@dataclass(frozen=True)
class Order:
    """A sentence and the facts that belong to it.

    `ahead`: where the words before the first convolution stand ahead of the fork, so that the shortcut reads them too:
    in units whose shortcut `projects`, in every unit whose shape `changes`, in the `first` unit of the network; empty
    for never. `first_bare`: the first unit goes without its leading words. `stem`: the words after the stem's last
    convolution. `last`: the words after the last unit. `projection_norm`: whether a projection carries a norm.
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

ORDERS: dict[str, Order] = {
    "original": Order(
        "conv norm act | conv norm + act", "He et al. 2015, arXiv:1512.03385, Fig. 2; He et al. 2016, Fig. 4(a)"
    ),
    "bn-after-add": Order(
        "conv norm act | conv + norm act",
        "He et al. 2016, Fig. 4(b); the bare projection is a reading",
        projection_norm=False,
    ),
    "relu-before-add": Order("conv norm act | conv norm act +", "He et al. 2016, Fig. 4(c)"),
    "relu-preact": Order(
        "act conv norm | act conv norm +",
        "He et al. 2016, Fig. 4(d); the words of stem and end are a reading",
        shared_preact=("projects", "first"),
        stem_ops="norm",
        final_ops="act",
    ),
    "full-preact": _PREACT,
    "full-preact-stem": Order(
        _PREACT.layout,
        "He et al. 2016 on ImageNet as fb.resnet.torch models/preresnet.lua: norm and activation before the max-pool",
        shared_preact=("projects",),
        skip_first_preact=True,
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
    "norm-free-preact": Order(
        "act conv | act conv +",
        "De and Smith 2020, arXiv:2002.10444, Sec. 3 (SkipInit: the pre-activated unit without its norms)",
        shared_preact=("projects", "first"),
        stem_ops="",
        final_ops="act",
        projection_norm=False,
    ),
    "fixup": Order(
        "bias conv bias act | bias conv scale bias + act",
        "Zhang, Dauphin and Ma 2019, arXiv:1901.09321, Fig. 1; a shortcut with a module reads the first bias",
        shared_preact=("changes", "projects"),
        stem_ops="bias act",
        projection_norm=False,
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


@dataclass(frozen=True)
class NamedOp:
    """A word of a unit with the name its module bears: `conv1`, `bn1`, `act1`; `conv` is the number of convolutions
    before it."""

    name: str
    op: Op
    num_convs: int


@dataclass(frozen=True)
class BlockOps:
    """A sentence for a given number of convolutions: the leading words, the rest of the branch, the words after the
    addition."""

    pre: tuple[NamedOp, ...]
    branch: tuple[NamedOp, ...]
    post: tuple[NamedOp, ...]


def get_order(name: str) -> Order:
    """The order of this name, or one made from a sentence; its facts then follow from where its first convolution
    stands.

    A sentence with words before its first convolution is pre-activated: its stem ends bare, the last unit is followed
    by those words, they stand ahead of the fork in the first unit and where the unit projects, and projections are
    bare. Raises ValueError for neither.
    """
    if name in ORDERS:
        return ORDERS[name]
    ops = parse_ops(name) if "conv" in name else ()
    names = [op.name for op in ops]
    if "conv" not in names:
        raise unknown_name(
            "order", name, ORDERS, "or a sentence such as 'conv norm act | conv norm + act' with its convolutions"
        )
    preact_ops = " ".join(str(op) for op in ops[: names.index("conv")])
    if preact_ops:
        return Order(
            name, "a sentence", ("projects", "first"), stem_ops="", final_ops=preact_ops, projection_norm=False
        )
    stem_ops = " ".join(str(ops[names.index(role)]) for role in ("norm", "act") if role in names)
    return Order(name, "a sentence", stem_ops=stem_ops, projection_norm="norm" in names)


def check_op_args(op: Op) -> None:
    """Raises ValueError where a word other than a pool or a linear layer says what it cannot mean: only `drop(0.3)`,
    `drop2d(0.3)` and `act(tanh)` say more than their name."""
    if op.size is not None or op.stride is not None:
        raise invalid(f"'{op.name}' without a size or stride", repr(str(op)), repr(op.name))
    arg_types: dict[str, tuple[type, ...]] = {"act": (str,), "drop": (int, float), "drop2d": (int, float)}
    is_valid = len(op.args) <= 1 and all(isinstance(arg, arg_types.get(op.name, ())) for arg in op.args)
    if not is_valid or any(not 0 <= arg < 1 for arg in op.args if not isinstance(arg, str)):
        example = {"act": "'act(tanh)'", "drop": "'drop(0.3)'", "drop2d": "'drop2d(0.3)'"}.get(op.name)
        required = (
            f"a word such as {example} (a rate in [0, 1))"
            if op.name in ("drop", "drop2d")
            else (f"a word such as {example}" if example else f"'{op.name}' without arguments")
        )
        raise invalid(required, repr(str(op)), example or repr(op.name))


def parse_order(layout: str, num_convs: int) -> BlockOps:
    """The sentence for a branch of `num_convs` convolutions, its words named by role and number.

    Raises ValueError where the sentence has no single `+`, a convolution after it, an unknown word, or other
    convolutions than asked.
    """
    branch_ops, post_ops = _split_at_merge(layout)
    expanded = _expand_segments(layout, branch_ops, num_convs)
    named_ops = _name_ops(expanded + post_ops)
    named_branch, named_post = named_ops[: len(expanded)], named_ops[len(expanded) :]
    first_conv = next(i for i, named_op in enumerate(named_branch) if named_op.op.name == "conv")
    return BlockOps(named_branch[:first_conv], named_branch[first_conv:], named_post)


def _split_at_merge(layout: str) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    ops = parse_ops(layout)
    names = [op.name for op in ops]
    for name in names:
        if name not in (*BLOCK_OPS, "+", "|"):
            raise unknown_name("word in an order", name, (*BLOCK_OPS, "+", "|"))
    for op in ops:
        check_op_args(op)
    if names.count("+") != 1:
        raise invalid(
            "an order with one '+', the place where shortcut and branch meet",
            repr(layout),
            repr(ORDERS["original"].layout),
        )
    merge_index = names.index("+")
    if "conv" in names[merge_index:] or "|" in names[merge_index:]:
        raise invalid("an order whose convolutions all stand before '+'", repr(layout), repr(ORDERS["original"].layout))
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
            example = repr(ORDERS["original"].layout)
            raise invalid(
                f"an order with {num_convs} convolutions, as the branch has", f"{counts[0]} in {layout!r}", example
            )
        return tuple(segments[0])
    if len(segments) > 3 or any(count != 1 for count in counts):
        raise invalid(
            "an order of two or three segments with one convolution each",
            repr(layout),
            repr(ORDERS["original"].layout),
        )
    leading_segments, last_segment = segments[:-1], segments[-1]
    repeated = [*leading_segments[:1], *([leading_segments[-1]] * max(num_convs - 2, 0))] if num_convs > 1 else []
    return tuple(op for segment in [*repeated, last_segment] for op in segment)


_MODULE_NAMES = {"norm": "bn"}


def _name_ops(ops: tuple[Op, ...]) -> tuple[NamedOp, ...]:
    counts: Counter[str] = Counter()
    named_ops = []
    for op in ops:
        role = _MODULE_NAMES.get(op.name, op.name)
        counts[role] += 1
        unnumbered = role == "se" and counts[role] == 1
        named_ops.append(NamedOp(role if unnumbered else f"{role}{counts[role]}", op, counts["conv"]))
    return tuple(named_ops)
