"""The axis `convs`: kernel, width and groups of each convolution of the branch, one list for all stages or one a stage.

3,3                                 basic                1,3,1                 bottleneck
7(w, groups=w), 1(4*w), 1(w)        ConvNeXt             3,3; 1,3,1            another branch in each stage
"""

from dataclasses import dataclass
from functools import lru_cache

from reslab.spec.arithmetic import check_expression
from reslab.spec.errors import invalid
from reslab.spec.grammar import parse_ops, split_outside_brackets

# The names of width expressions: channels of the block's input, the stage's width, the inner width of ResNeXt's
# formula, channels of the block's output, the stage's group width, and 1 in the network's first block (0 in others).
WIDTH_NAMES = ("in", "w", "inner", "out", "g", "first")
_EXAMPLE = "'7(w, groups=w), 1(4*w), 1(w)'"


@dataclass(frozen=True)
class ConvRule:
    """One convolution of the branch: its kernel, and expressions for its width and groups (empty: the default)."""

    kernel: int
    width: str = ""
    groups: str = ""


@lru_cache(maxsize=1024)
def parse_convs(convs: tuple[int, ...] | str) -> tuple[tuple[ConvRule, ...], ...]:
    """Return the convolutions of each list: one for all stages, or one a stage.

    Raises ValueError for text that is no list of `KERNEL` or `KERNEL(WIDTH, groups=GROUPS)`.
    """
    if not isinstance(convs, str):
        return (tuple(ConvRule(kernel) for kernel in convs),)
    return tuple(
        tuple(_parse_rule(text.strip()) for text in split_outside_brackets(stage, ","))
        for stage in split_outside_brackets(convs, ";")
    )


def _parse_rule(text: str) -> ConvRule:
    # An operation starts with a letter: `k7(w)` stands for the kernel and its arguments.
    ops = parse_ops(f"k{text}") if text[:1].isdigit() else ()
    if len(ops) != 1 or ops[0].name != "k" or ops[0].size is None or ops[0].stride is not None:
        raise invalid(
            "convolutions as KERNEL or KERNEL(WIDTH, groups=GROUPS), separated by commas", repr(text), _EXAMPLE
        )
    op, kwargs = ops[0], dict(ops[0].kwargs)
    if len(op.args) > 1 or set(kwargs) - {"groups"}:
        raise invalid("a convolution as KERNEL(WIDTH, groups=GROUPS)", repr(text), _EXAMPLE)
    rule = ConvRule(op.size or 0, str(op.args[0]) if op.args else "", str(kwargs.get("groups", "")))
    for expression in (rule.width, rule.groups):
        if expression:
            check_expression(expression, WIDTH_NAMES)
    return rule


def format_convs(convs: tuple[int, ...] | str) -> str:
    """Return the axis as a text."""
    return convs if isinstance(convs, str) else ",".join(map(str, convs))
