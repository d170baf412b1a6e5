"""How shortcut and branch meet: one join, and modifiers before it.

How the shortcut gets the branch's shape; identity wherever the shapes agree, unless the match stands on every
unit.
"""

import math
from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops


@dataclass(frozen=True)
class MergeOp:
    """A word of a mix: what it does, how many arguments it takes, in which range, and where it is from."""

    description: str
    num_args: int
    reference: str
    low: float = float("-inf")
    high: float = float("inf")


MERGE_OPS: dict[str, MergeOp] = {
    "add": MergeOp("shortcut + branch", 0, "He et al. 2015, Eq. 1"),
    "none": MergeOp("branch (the plain twin)", 0, "He et al. 2015, Sec. 3.3"),
    "scale": MergeOp("a * shortcut + b * branch", 2, "He et al. 2016, Sec. 3.1"),
    "gate": MergeOp(
        "(1 - g) * shortcut + g * branch", 1, "He et al. 2016, Sec. 3.1 (exclusive gating); Srivastava et al. 2015"
    ),
    "shortcut-gate": MergeOp("(1 - g) * shortcut + branch", 1, "He et al. 2016, Sec. 3.1 (shortcut-only gating)"),
}

SHORTCUT_MODIFIERS: dict[str, MergeOp] = {
    "dropout": MergeOp("elements dropped, the others divided by 1 - p", 1, "He et al. 2016, Sec. 3.1", 0.0, 1.0),
}

BRANCH_MODIFIERS: dict[str, MergeOp] = {
    "stochastic-depth": MergeOp(
        "one draw a batch, times p at test; p linear in depth, here the last unit's",
        1,
        "Huang et al. 2016, Sec. 3",
        0.0,
        1.0,
    ),
    "drop-path": MergeOp(
        "one draw a sample, divided by 1 - p in training; p linear in depth, here the last unit's",
        1,
        "Larsson et al. 2017",
        0.0,
        1.0,
    ),
    "rezero": MergeOp("one learned scalar, from 0", 0, "Bachlechner et al. 2021, arXiv:2003.04887, Eq. 1"),
    "skipinit": MergeOp("one learned scalar, from 0", 0, "De and Smith 2020, arXiv:2002.10444, Sec. 3"),
    "layerscale": MergeOp("a learned scalar a channel, from eps", 1, "Touvron et al. 2021, arXiv:2103.17239, Eq. 4"),
}


@dataclass(frozen=True)
class MergeSpec:
    """A parsed mix: the join and the modifiers of each path, in the order they are applied."""

    op: Op
    shortcut_modifiers: tuple[Op, ...] = ()
    branch_modifiers: tuple[Op, ...] = ()


def parse_merge(expression: str) -> MergeSpec:
    """The mix that a sentence such as `stochastic-depth(0.5) add` names; a sentence without a join adds.

    Raises ValueError for an unknown word, wrong arguments, two joins, or a combination that means nothing.
    """
    ops = parse_ops(expression)
    known_ops = MERGE_OPS | SHORTCUT_MODIFIERS | BRANCH_MODIFIERS
    for op in ops:
        if op.name not in known_ops:
            raise unknown_name("merge operation", op.name, known_ops)
        _check_merge_args(op, known_ops[op.name])
    merge_ops = [op for op in ops if op.name in MERGE_OPS]
    if len(merge_ops) > 1:
        raise invalid("a mix with one join", f"{len(merge_ops)} in {expression!r}", repr(str(merge_ops[0])))
    merge = MergeSpec(
        merge_ops[0] if merge_ops else Op("add"),
        tuple(op for op in ops if op.name in SHORTCUT_MODIFIERS),
        tuple(op for op in ops if op.name in BRANCH_MODIFIERS),
    )
    if merge.op.name == "none" and (merge.shortcut_modifiers or merge.branch_modifiers):
        op = (*merge.shortcut_modifiers, *merge.branch_modifiers)[0]
        reason = (
            "the plain twin has no shortcut to modify, and nothing is left where its branch is scaled by 0 or dropped"
        )
        raise invalid(f"'none' alone ({reason})", repr(expression), "'none'", f"use '{op} add'")
    learned_scalars = [op for op in merge.branch_modifiers if op.name in ("rezero", "skipinit")]
    if len(learned_scalars) > 1 or len({op.name for op in ops}) < len(ops):
        raise invalid(
            "each modifier once (rezero and skipinit are the same scalar)", repr(expression), repr(str(ops[0]))
        )
    return merge


def _check_merge_args(op: Op, merge_op: MergeOp) -> None:
    if (
        op.size is not None
        or op.stride is not None
        or len(op.args) != merge_op.num_args
        or not all(isinstance(arg, int | float) and math.isfinite(arg) for arg in op.args)
    ):
        example_arg = "-6" if op.name.endswith("gate") else "0.5"
        example = f"{op.name}({','.join([example_arg] * merge_op.num_args)})" if merge_op.num_args else op.name
        raise invalid(f"{op.name} with {merge_op.num_args or 'no'} number(s)", repr(str(op)), repr(example))
    for arg in op.args:
        if not merge_op.low <= float(arg) <= merge_op.high:
            clipped = min(max(float(arg), merge_op.low), merge_op.high)
            raise invalid(
                f"{op.name} between {merge_op.low:g} and {merge_op.high:g}",
                f"{arg:g}" if not isinstance(arg, str) else arg,
                f"{op.name}({clipped:g})",
            )


def survival_probability(last_probability: float, index: int, num_blocks: int) -> float:
    """The probability that unit `index` (from 0) survives: p_l = 1 - (l / L)(1 - p_L), l = index + 1 (Huang et al.
    2016, Eq. 4)."""
    return 1.0 - (index + 1) / num_blocks * (1.0 - last_probability)


def drop_path_rate(last_rate: float, index: int, num_blocks: int) -> float:
    """The rate at which unit `index` (from 0) drops its branch: 0 in the first unit, `last` in the last, linear
    between, as timm has it."""
    return last_rate * index / (num_blocks - 1) if num_blocks > 1 else last_rate


@dataclass(frozen=True)
class ShortcutType:
    """`kind`: the module it builds. `every`: it stands on every unit, also where the shapes agree."""

    kind: str
    description: str
    reference: str
    on_every_block: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("project", "conv1x1", "avg-project")


SHORTCUTS: dict[str, ShortcutType] = {
    "pad": ShortcutType("pad", "strided, zeros after (option A)", "He et al. 2015, Sec. 4.1 and 4.2"),
    "pad-split": ShortcutType(
        "pad-split",
        "strided, half of the zeros before, half after (option A)",
        "github.com/akamaster/pytorch_resnet_cifar10",
    ),
    "avg-pad": ShortcutType(
        "avg-pad", "2x2 average pool, zeros after", "Han, Kim and Kim 2017, arXiv:1610.02915, Sec. 3.3"
    ),
    "project": ShortcutType("project", "1x1 convolution and norm (option B)", "He et al. 2015, Sec. 4.1"),
    "project-all": ShortcutType(
        "project", "1x1 convolution and norm on every unit (option C)", "He et al. 2015, Sec. 4.1", on_every_block=True
    ),
    "conv1x1": ShortcutType("conv1x1", "a bare 1x1 convolution", "Zhang et al., Dive into Deep Learning, Sec. 8.6"),
    "conv1x1-all": ShortcutType(
        "conv1x1",
        "a bare 1x1 convolution on every unit",
        "He et al. 2016, Sec. 3.1, Table 1 (a reading)",
        on_every_block=True,
    ),
    "avg-project": ShortcutType(
        "avg-project",
        "2x2 average pool, 1x1 convolution, norm (ResNet-D)",
        "He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(c)",
    ),
}


def get_shortcut(name: str) -> ShortcutType:
    """The match of this name; ValueError with the nearest names where there is none."""
    if name not in SHORTCUTS:
        raise unknown_name("shortcut", name, SHORTCUTS)
    return SHORTCUTS[name]
