"""The two joints of a block: how the shortcut gets the branch's shape, and how shortcut and branch merge.

A shortcut is the identity wherever the shapes agree, unless its type applies to every block. A merge is one operation
and modifiers of either path ahead of it: `stochastic-depth(0.5) add`.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from reslab.spec.arithmetic import check_expression, evaluate
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops


class ShortcutKind(StrEnum):
    """The module on the shortcut of one block. `NONE`: the plain twin has no shortcut."""

    NONE = "none"
    IDENTITY = "identity"
    PAD = "pad"
    PAD_SPLIT = "pad-split"
    AVG_PAD = "avg-pad"
    CONV1X1 = "conv1x1"
    PROJECT = "project"
    AVG_PROJECT = "avg-project"

    @property
    def has_weights(self) -> bool:
        """Whether the module has weights."""
        return self in (ShortcutKind.CONV1X1, ShortcutKind.PROJECT, ShortcutKind.AVG_PROJECT)

    @property
    def pads(self) -> bool:
        """Whether the module adds channels of zeros."""
        return self in (ShortcutKind.PAD, ShortcutKind.PAD_SPLIT, ShortcutKind.AVG_PAD)


@dataclass(frozen=True)
class ShortcutType:
    """A value of the axis `shortcut`: the kind of its module; with `on_every_block` also where the shapes agree.

    `kernel`: of the projection where it has a stride; it is 1 elsewhere.
    """

    kind: ShortcutKind
    description: str
    reference: str
    on_every_block: bool = False
    kernel: int = 1


IDENTITY_SHORTCUT = ShortcutType(ShortcutKind.IDENTITY, "the input itself", "He et al. 2015, Eq. 1")
NO_SHORTCUT = ShortcutType(ShortcutKind.NONE, "no shortcut (the plain twin)", "He et al. 2015, Sec. 3.3")


SHORTCUTS: dict[str, ShortcutType] = {
    "identity": ShortcutType(
        ShortcutKind.NONE,
        "none: only blocks that keep the shape have a shortcut",
        "Sandler et al. 2018, arXiv:1801.04381, Fig. 4(d)",
    ),
    "pad": ShortcutType(
        ShortcutKind.PAD, "strided, with channels of zeros after (option A)", "He et al. 2015, Sec. 4.1 and 4.2"
    ),
    "pad-split": ShortcutType(
        ShortcutKind.PAD_SPLIT,
        "strided, half of the zeros before, half after (option A)",
        "github.com/akamaster/pytorch_resnet_cifar10",
    ),
    "avg-pad": ShortcutType(
        ShortcutKind.AVG_PAD,
        "2x2 average pool, channels of zeros after",
        "Han, Kim and Kim 2017, arXiv:1610.02915, Sec. 3.3",
    ),
    "project": ShortcutType(ShortcutKind.PROJECT, "1x1 convolution and norm (option B)", "He et al. 2015, Sec. 4.1"),
    "project-all": ShortcutType(
        ShortcutKind.PROJECT,
        "1x1 convolution and norm in every block (option C)",
        "He et al. 2015, Sec. 4.1",
        on_every_block=True,
    ),
    "project3": ShortcutType(
        ShortcutKind.PROJECT,
        "3x3 convolution where there is a stride, else 1x1, and norm",
        "Hu, Shen and Sun 2018, arXiv:1709.01507, appendix (SENet-154)",
        kernel=3,
    ),
    "conv1x1": ShortcutType(
        ShortcutKind.CONV1X1, "1x1 convolution without norm", "Zhang et al., Dive into Deep Learning, Sec. 8.6"
    ),
    "conv1x1-all": ShortcutType(
        ShortcutKind.CONV1X1,
        "1x1 convolution without norm in every block",
        "He et al. 2016, Sec. 3.1, Table 1 (our reading)",
        on_every_block=True,
    ),
    "avg-project": ShortcutType(
        ShortcutKind.AVG_PROJECT,
        "2x2 average pool, 1x1 convolution, norm (ResNet-D)",
        "He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(c)",
    ),
}


def get_shortcut(name: str) -> ShortcutType:
    """Return the shortcut type of this name. Raises ValueError for an unknown name, with the nearest ones."""
    if name not in SHORTCUTS:
        raise unknown_name("shortcut", name, SHORTCUTS)
    return SHORTCUTS[name]


@dataclass(frozen=True)
class MergeOp:
    """An operation of a merge expression: what it computes, its number of arguments, their range and its source.

    With `names`, an argument may be arithmetic over these names.
    """

    description: str
    num_args: int
    reference: str
    low: float = float("-inf")
    high: float = float("inf")
    names: tuple[str, ...] = ()


DEPTH_NAMES = ("L", "l")

MERGE_OPS: dict[str, MergeOp] = {
    "add": MergeOp("shortcut + branch", 0, "He et al. 2015, Eq. 1"),
    "none": MergeOp("branch alone (the plain twin)", 0, "He et al. 2015, Sec. 3.3"),
    "scale": MergeOp(
        "a * shortcut + b * branch; a and b are numbers, or arithmetic over the number of blocks L and the block l",
        2,
        "He et al. 2016, Sec. 3.1; scale(1, 1/sqrt(L)): Hayou et al. 2021, arXiv:2010.12859, Sec. 3",
        names=DEPTH_NAMES,
    ),
    "gate": MergeOp(
        "(1 - g) * shortcut + g * branch", 1, "He et al. 2016, Sec. 3.1 (exclusive gating); Srivastava et al. 2015"
    ),
    "shortcut-gate": MergeOp("(1 - g) * shortcut + branch", 1, "He et al. 2016, Sec. 3.1 (shortcut-only gating)"),
}

SHORTCUT_MODIFIERS: dict[str, MergeOp] = {
    "dropout": MergeOp("dropout of elements, the rest divided by 1 - p", 1, "He et al. 2016, Sec. 3.1", 0.0, 1.0),
}

BRANCH_MODIFIERS: dict[str, MergeOp] = {
    "stochastic-depth": MergeOp(
        "one draw per batch, times p in eval mode; p falls linearly to this value in the last block",
        1,
        "Huang et al. 2016, Sec. 3",
        0.0,
        1.0,
    ),
    "drop-path": MergeOp(
        "one draw per sample, divided by 1 - p in training; p rises linearly to this value in the last block",
        1,
        "Larsson et al. 2017",
        0.0,
        1.0,
    ),
    "rezero": MergeOp("times one learned scalar, initially 0", 0, "Bachlechner et al. 2021, arXiv:2003.04887, Eq. 1"),
    "skipinit": MergeOp("times one learned scalar, initially 0", 0, "De and Smith 2020, arXiv:2002.10444, Sec. 3"),
    "layerscale": MergeOp(
        "times a learned scalar per channel, initially eps", 1, "Touvron et al. 2021, arXiv:2103.17239, Eq. 4"
    ),
}
# Modifiers whose rate depends on the block's depth.
DEPTH_DEPENDENT_MODIFIERS = ("stochastic-depth", "drop-path")


@dataclass(frozen=True)
class MergeSpec:
    """A parsed merge: the operation, and the modifiers of each path in the order they are applied."""

    op: Op
    shortcut_modifiers: tuple[Op, ...] = ()
    branch_modifiers: tuple[Op, ...] = ()


def parse_merge(expression: str) -> MergeSpec:
    """Return the merge of an expression such as `stochastic-depth(0.5) add`; without an operation it adds.

    Raises ValueError for an unknown operation, wrong arguments, two merge operations, or modifiers that cannot be
    combined.
    """
    ops = parse_ops(expression)
    known_ops = MERGE_OPS | SHORTCUT_MODIFIERS | BRANCH_MODIFIERS
    for op in ops:
        if op.name not in known_ops:
            raise unknown_name("merge operation", op.name, known_ops)
        _check_merge_args(op, known_ops[op.name])
    merge_ops = [op for op in ops if op.name in MERGE_OPS]
    if len(merge_ops) > 1:
        got = f"{len(merge_ops)} in {expression!r}"
        raise invalid("one merge operation (add, scale, gate ...)", got, repr(str(merge_ops[0])))
    merge = MergeSpec(
        merge_ops[0] if merge_ops else Op("add"),
        tuple(op for op in ops if op.name in SHORTCUT_MODIFIERS),
        tuple(op for op in ops if op.name in BRANCH_MODIFIERS),
    )
    modifiers = (*merge.shortcut_modifiers, *merge.branch_modifiers)
    if merge.op.name == "none" and modifiers:
        required = "'none' without modifiers (there is no shortcut to modify, and no signal when the branch is dropped)"
        raise invalid(required, repr(expression), "'none'", f"use '{modifiers[0]} add'")
    learned_scalars = [op for op in merge.branch_modifiers if op.name in ("rezero", "skipinit")]
    if len(learned_scalars) > 1 or len({op.name for op in ops}) < len(ops):
        required = "each modifier once (rezero and skipinit are the same scalar)"
        raise invalid(required, repr(expression), repr(str(ops[0])))
    return merge


def merge_factors(merge: MergeSpec, number: int, num_blocks: int) -> tuple[float, ...]:
    """Return the arguments of the merge operation in block `number` (from 1) as numbers."""
    names = {"L": num_blocks, "l": number}
    return tuple(evaluate(arg, names) if isinstance(arg, str) else float(arg) for arg in merge.op.args)


def _check_merge_args(op: Op, merge_op: MergeOp) -> None:
    if merge_op.names and len(op.args) == merge_op.num_args:
        for arg in op.args:
            if isinstance(arg, str):
                check_expression(arg, merge_op.names)
        op = Op(op.name, tuple(0 if isinstance(arg, str) else arg for arg in op.args), op.size, op.stride, op.kwargs)
    if (
        op.kwargs
        or op.size is not None
        or op.stride is not None
        or len(op.args) != merge_op.num_args
        or not all(isinstance(arg, int | float) and math.isfinite(arg) for arg in op.args)
    ):
        example_arg = "-6" if op.name.endswith("gate") else "0.5"
        example = f"{op.name}({','.join([example_arg] * merge_op.num_args)})" if merge_op.num_args else op.name
        required = f"{op.name} with {merge_op.num_args or 'no'} number{'s' if merge_op.num_args != 1 else ''}"
        raise invalid(required, repr(str(op)), repr(example))
    for arg in op.args:
        if not merge_op.low <= float(arg) <= merge_op.high:
            clipped = min(max(float(arg), merge_op.low), merge_op.high)
            raise invalid(
                f"{op.name} between {merge_op.low:g} and {merge_op.high:g}",
                f"{arg:g}" if not isinstance(arg, str) else arg,
                f"{op.name}({clipped:g})",
            )


def survival_probability(last_probability: float, index: int, num_blocks: int) -> float:
    """Return the survival probability of block `index` (from 0), which falls linearly with depth.

    p_l = 1 - (l / L)(1 - p_L) with l = index + 1 (Huang et al. 2016, Eq. 4).
    """
    return 1.0 - (index + 1) / num_blocks * (1.0 - last_probability)


def drop_path_rate(last_rate: float, index: int, num_blocks: int) -> float:
    """Return the drop-path rate of block `index` (from 0): linear from 0 to the last block's rate, as in timm."""
    return last_rate * index / (num_blocks - 1) if num_blocks > 1 else last_rate
