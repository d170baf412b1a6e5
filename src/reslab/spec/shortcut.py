"""Shortcuts, which get the shape of the branch, and merges, which join shortcut and branch.

A shortcut is the identity wherever the shapes agree, unless its type applies to every block. A merge is one operation
and modifiers of either path ahead of it: `stochastic-depth(0.5) add`. `reslab.nn.shortcut` and `reslab.nn.merge` hold
the functions of these names.
"""

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Arg, Op, Param, bind, evaluate, parse_ops
from reslab.spec.operations import parse_name_and_args
from reslab.spec.plugins import Table


@dataclass(frozen=True)
class ShortcutType:
    """A value of the axis `shortcut`: what its module does and needs, and the function `builder` that makes it.

    * `builder`: the name of the function in `reslab.nn.shortcut`. `args`: the values of its arguments by name.
    * `on_every_block`: the module is also there where the shapes agree. `has_weights`: it has weights, so that shared
      operations ahead of the fork come ahead of it too (`Order.shared_preact`). `pads`: it adds channels of zeros, and
      cannot take any away. `only_if_wider`: where only the size changes, the shortcut is strided.
    """

    builder: str
    description: str
    reference: str
    has_weights: bool = False
    pads: bool = False
    only_if_wider: bool = False
    on_every_block: bool = False
    params: tuple[Param, ...] = ()
    args: tuple[tuple[str, Arg], ...] = ()


IDENTITY_SHORTCUT = ShortcutType(
    "identity",
    "none: only blocks that keep the shape have a shortcut",
    "Sandler et al. 2018, arXiv:1801.04381, Fig. 4(d)",
)
_PROJECT = ShortcutType("project", "1x1 convolution and norm (option B)", "He et al. 2015, Sec. 4.1", has_weights=True)
_CONV1X1 = ShortcutType(
    "conv1x1",
    "1x1 convolution without norm",
    "Zhang et al., Dive into Deep Learning, Sec. 8.6",
    has_weights=True,
)

SHORTCUTS: Table[ShortcutType] = Table(
    "shortcut",
    {
        "identity": IDENTITY_SHORTCUT,
        "pad": ShortcutType(
            "pad",
            "strided, with channels of zeros after (option A)",
            "He et al. 2015, Sec. 4.1 and 4.2",
            pads=True,
        ),
        "pad-split": ShortcutType(
            "pad-split",
            "strided, half of the zeros before, half after (option A)",
            "github.com/akamaster/pytorch_resnet_cifar10",
            pads=True,
        ),
        "avg-pad": ShortcutType(
            "avg-pad",
            "2x2 average pool, channels of zeros after",
            "Han, Kim and Kim 2017, arXiv:1610.02915, Sec. 3.3",
            pads=True,
        ),
        "project": _PROJECT,
        "project-all": replace(
            _PROJECT, description="1x1 convolution and norm in every block (option C)", on_every_block=True
        ),
        "project3": replace(
            _PROJECT,
            description="3x3 convolution where there is a stride, else 1x1, and norm",
            reference="Hu, Shen and Sun 2018, arXiv:1709.01507, appendix (SENet-154)",
            args=(("kernel", 3),),
        ),
        "conv1x1": _CONV1X1,
        "conv1x1-all": replace(
            _CONV1X1,
            description="1x1 convolution without norm in every block",
            reference="He et al. 2016, Sec. 3.1, Table 1 (our reading)",
            on_every_block=True,
        ),
        "conv1x1-grow": replace(
            _CONV1X1,
            description="1x1 convolution without norm where the width changes, strided where only the size does",
            reference="keras.applications.ResNet50V2",
            only_if_wider=True,
        ),
        "shift-project": ShortcutType(
            "shift-project",
            "two 1x1 convolutions of half the width each, side by side, the second of the map shifted by one position, "
            "and norm",
            "Gastaldi 2017, arXiv:1705.07485; github.com/xgastaldi/shake-shake, models/shakeshakeblock.lua",
            has_weights=True,
        ),
        "avg-project": ShortcutType(
            "avg-project",
            "2x2 average pool, 1x1 convolution, norm (ResNet-D)",
            "He, Tong et al. 2019, arXiv:1812.01187, Fig. 2(c)",
            has_weights=True,
        ),
    },
    is_word_of_grammar=True,
)


def get_shortcut(text: str) -> ShortcutType:
    """Return the shortcut type of a name, with its arguments in brackets if it takes any.

    Raises ValueError for an unknown name, with the nearest ones, and for arguments that it cannot take.
    """
    if text in SHORTCUTS and not SHORTCUTS[text].params:
        return SHORTCUTS[text]
    op = parse_name_and_args(text)
    if op is None or op.name not in SHORTCUTS:
        raise unknown_name("shortcut", text, SHORTCUTS)
    shortcut = SHORTCUTS[op.name]
    return replace(shortcut, args=tuple(bind(op, shortcut.params).items()))


class MergeRole(StrEnum):
    """The operand of an operation of a merge expression."""

    MERGE = "merge"
    """Both paths: it makes the block's output of shortcut and branch."""
    SHORTCUT = "shortcut"
    """The shortcut, ahead of the merge."""
    BRANCH = "branch"
    """The branch, ahead of the merge."""
    BRANCHES = "branches"
    """The parallel branches of a block: it makes one of them, ahead of the modifiers. Without it they are added."""


@dataclass(frozen=True)
class MergeOp:
    """An operation of a merge expression: what it computes, its source, arguments and role.

    * `uses_shortcut`: without it the block has no shortcut (the plain twin).
    * `varies_with_depth`: its effect depends on the block's place, so that blocks that share weights cannot have it.
    * `is_sum`: the output is shortcut + branch. `branch_factor`: the argument by which the branch is multiplied.
    * `factor`: the name of the learned factor that a modifier multiplies its path by; empty for a module.
    """

    description: str
    reference: str
    params: tuple[Param, ...] = ()
    role: MergeRole = MergeRole.MERGE
    uses_shortcut: bool = True
    varies_with_depth: bool = False
    is_sum: bool = False
    branch_factor: str = ""
    factor: str = ""


DEPTH_NAMES = ("L", "l")
_BIAS = Param("bias", required=True, example="-6")
_PROBABILITY = Param("p", required=True, low=0, high=1, example="0.5")
_FACTOR_A, _FACTOR_B = (Param(name, required=True, names=DEPTH_NAMES, example="0.5,0.5") for name in "ab")

MERGE_OPS: Table[MergeOp] = Table(
    "merge operation",
    {
        "add": MergeOp("shortcut + branch", "He et al. 2015, Eq. 1", is_sum=True),
        "none": MergeOp("branch alone (the plain twin)", "He et al. 2015, Sec. 3.3", uses_shortcut=False),
        "scale": MergeOp(
            "a * shortcut + b * branch; a and b are numbers, or arithmetic over the number of blocks L and the block l",
            "He et al. 2016, Sec. 3.1; scale(1, 1/sqrt(L)): Hayou et al. 2021, arXiv:2010.12859, Sec. 3",
            (_FACTOR_A, _FACTOR_B),
            branch_factor="b",
        ),
        "gate": MergeOp(
            "(1 - g) * shortcut + g * branch",
            "He et al. 2016, Sec. 3.1 (exclusive gating); Srivastava et al. 2015",
            (_BIAS,),
        ),
        "shortcut-gate": MergeOp(
            "(1 - g) * shortcut + branch", "He et al. 2016, Sec. 3.1 (shortcut-only gating)", (_BIAS,)
        ),
        "dropout": MergeOp(
            "dropout of elements, the rest divided by 1 - p",
            "He et al. 2016, Sec. 3.1",
            (_PROBABILITY,),
            MergeRole.SHORTCUT,
        ),
        "stochastic-depth": MergeOp(
            "one draw per batch, times p in eval mode; p falls linearly to this value in the last block",
            "Huang et al. 2016, Sec. 3",
            (_PROBABILITY,),
            MergeRole.BRANCH,
            varies_with_depth=True,
        ),
        "drop-path": MergeOp(
            "one draw per sample, divided by 1 - p in training; p rises linearly to this value in the last block",
            "Larsson et al. 2017",
            (_PROBABILITY,),
            MergeRole.BRANCH,
            varies_with_depth=True,
        ),
        "shake": MergeOp(
            "sum of the branches, times weights of sum 1: random (`shake`) or equal (`even`) in the forward pass, "
            "other ones in the backward pass (`keep`: the same); a draw per image or per batch; in eval mode the mean",
            "Gastaldi 2017, arXiv:1705.07485, Eqs. 2 and 3, Sec. 2.2",
            (
                Param("forward", str, "shake", choices=("shake", "even")),
                Param("backward", str, "shake", choices=("shake", "even", "keep")),
                Param("level", str, "image", choices=("image", "batch")),
            ),
            MergeRole.BRANCHES,
        ),
        "rezero": MergeOp(
            "times one learned scalar, initially 0",
            "Bachlechner et al. 2021, arXiv:2003.04887, Eq. 1",
            role=MergeRole.BRANCH,
            factor="scale",
        ),
        "skipinit": MergeOp(
            "times one learned scalar, initially 0",
            "De and Smith 2020, arXiv:2002.10444, Sec. 3",
            role=MergeRole.BRANCH,
            factor="scale",
        ),
        "layerscale": MergeOp(
            "times a learned scalar per channel, initially eps",
            "Touvron et al. 2021, arXiv:2103.17239, Eq. 4",
            (Param("eps", required=True, example="1e-6"),),
            MergeRole.BRANCH,
            factor="gamma",
        ),
    },
    is_word_of_grammar=True,
)


@dataclass(frozen=True)
class MergeSpec:
    """A parsed merge: the operation, and the modifiers of each path in the order they are applied.

    `combination`: what makes one branch of several parallel ones; None adds them.
    """

    op: Op
    shortcut_modifiers: tuple[Op, ...] = ()
    branch_modifiers: tuple[Op, ...] = ()
    combination: Op | None = None

    @property
    def ops(self) -> tuple[Op, ...]:
        """All operations, as an expression has them: the combination, modifiers, then the operation."""
        combination = () if self.combination is None else (self.combination,)
        return (*combination, *self.shortcut_modifiers, *self.branch_modifiers, self.op)

    @property
    def uses_shortcut(self) -> bool:
        """True if the block has a shortcut."""
        return MERGE_OPS[self.op.name].uses_shortcut

    @property
    def varies_with_depth(self) -> bool:
        """True if the merge depends on the block's position in the network."""
        return any(MERGE_OPS[op.name].varies_with_depth for op in self.ops)


def parse_merge(expression: str) -> MergeSpec:
    """Return the merge of an expression such as `stochastic-depth(0.5) add`; without an operation it adds.

    Raises ValueError for an unknown operation, wrong arguments, two merge operations, or modifiers that cannot be
    combined.
    """
    by_role: dict[MergeRole, list[Op]] = {role: [] for role in MergeRole}
    for op in parse_ops(expression):
        if op.name not in MERGE_OPS:
            raise unknown_name("merge operation", op.name, MERGE_OPS)
        if op.size is not None or op.stride is not None:
            raise invalid(f"'{op.name}' without a size or stride", repr(str(op)), repr(op.name))
        bind(op, MERGE_OPS[op.name].params)
        by_role[MERGE_OPS[op.name].role].append(op)
    merge_ops = by_role[MergeRole.MERGE]
    if len(merge_ops) > 1:
        got = f"{len(merge_ops)} in {expression!r}"
        raise invalid("one merge operation (add, scale, gate ...)", got, repr(str(merge_ops[0])))
    combinations = by_role[MergeRole.BRANCHES]
    if len(combinations) > 1:
        got = f"{len(combinations)} in {expression!r}"
        raise invalid("one operation that combines the parallel branches", got, repr(str(combinations[0])))
    merge = MergeSpec(
        merge_ops[0] if merge_ops else Op("add"),
        tuple(by_role[MergeRole.SHORTCUT]),
        tuple(by_role[MergeRole.BRANCH]),
        next(iter(by_role[MergeRole.BRANCHES]), None),
    )
    modifiers = (*merge.shortcut_modifiers, *merge.branch_modifiers)
    if modifiers and not merge.uses_shortcut:
        reason = "there is no shortcut to modify, and no signal when the branch is dropped"
        required = f"'{merge.op.name}' without modifiers ({reason})"
        raise invalid(required, repr(expression), repr(merge.op.name), f"use '{modifiers[0]} add'")
    effects = Counter(MERGE_OPS[op.name].factor or op.name for op in modifiers)
    if any(count > 1 for count in effects.values()):
        required = "each modifier once (rezero and skipinit are the same scalar)"
        raise invalid(required, repr(expression), repr(str(modifiers[0])))
    return merge


def merge_args(op: Op, number: int, num_blocks: int) -> dict[str, Arg]:
    """Return the arguments of an operation by name in block `number` (from 1), with arithmetic evaluated."""
    names: dict[str, float] = {"L": num_blocks, "l": number}
    params = {param.name: param for param in MERGE_OPS[op.name].params}
    return {
        name: evaluate(value, names) if isinstance(value, str) and params[name].names else value
        for name, value in bind(op, tuple(params.values())).items()
    }


def survival_probability(last_probability: float, index: int, num_blocks: int) -> float:
    """Return the survival probability of block `index` (from 0), which falls linearly with depth.

    p_l = 1 - (l / L)(1 - p_L) with l = index + 1 (Huang et al. 2016, Eq. 4).
    """
    return 1.0 - (index + 1) / num_blocks * (1.0 - last_probability)


def drop_path_rate(last_rate: float, index: int, num_blocks: int) -> float:
    """Return the drop-path rate of block `index` (from 0): linear from 0 to the last block's rate, as in timm."""
    return last_rate * index / (num_blocks - 1) if num_blocks > 1 else last_rate
