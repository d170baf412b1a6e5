"""Merge expressions: operations, modifiers, errors, and the rates that depend on depth; shortcuts by name."""

import pytest

from reslab.spec.grammar import Op
from reslab.spec.shortcut import (
    MERGE_OPS,
    SHORTCUTS,
    MergeRole,
    MergeSpec,
    drop_path_rate,
    get_shortcut,
    parse_merge,
    survival_probability,
)


@pytest.mark.parametrize(
    ("expression", "merge"),
    [
        ("add", MergeSpec(Op("add"))),
        ("", MergeSpec(Op("add"))),
        ("none", MergeSpec(Op("none"))),
        ("scale(0.5,0.5)", MergeSpec(Op("scale", (0.5, 0.5)))),
        ("shortcut-gate(-6)", MergeSpec(Op("shortcut-gate", (-6,)))),
        ("dropout(0.5)", MergeSpec(Op("add"), (Op("dropout", (0.5,)),))),
        ("stochastic-depth(0.5) add", MergeSpec(Op("add"), (), (Op("stochastic-depth", (0.5,)),))),
        (
            "dropout(0.1) drop-path(0.2) rezero gate(-3)",
            MergeSpec(Op("gate", (-3,)), (Op("dropout", (0.1,)),), (Op("drop-path", (0.2,)), Op("rezero"))),
        ),
    ],
)
def test_merges_are_parsed(expression, merge):
    assert parse_merge(expression) == merge


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ad", "'add'"),
        ("shortcut-gat(-6)", "shortcut-gate"),
        ("add none", "one merge operation"),
        ("gate(1) scale(1,1)", "one merge operation"),
        ("add add", "one merge operation"),
        ("none stochastic-depth(0.5)", "no shortcut"),
        ("dropout(0.5) none", "no shortcut"),
        ("none rezero", "no shortcut"),
        ("gate", r"gate\(BIAS\).*'gate\(-6\)'"),
        ("gate(a)", "bias as a number"),
        ("gate(1,2)", "gate with bias"),
        ("gate(nan)", "bias as a number"),
        ("gate(inf)", "bias as a number"),
        ("scale(1)", "with b as a number"),
        ("rezero(1)", "'rezero' without arguments"),
        ("add3", "'add' without a size"),
        ("gate/2(1)", "without a size or stride"),
        ("dropout(1.5)", "in \\[0, 1\\].*dropout\\(1\\)"),
        ("stochastic-depth(-0.1)", "in \\[0, 1\\].*stochastic-depth\\(0\\)"),
        ("drop-path(2) add", "in \\[0, 1\\].*drop-path\\(1\\)"),
        ("rezero skipinit add", "the same scalar"),
        ("dropout(0.1) dropout(0.2)", "once"),
        ("layerscale(0.1) layerscale(0.1)", "once"),
        ("add)", "brackets"),
    ],
)
def test_invalid_merges_are_an_error_with_the_reason(expression, message):
    with pytest.raises(ValueError, match=message):
        parse_merge(expression)


def test_survival_falls_linearly_to_the_last_block():
    """Huang et al. 2016, Eq. 4: p_l = 1 - (l / L)(1 - p_L); p_L = 0.5 keeps 3 L / 4 - 1 / 4 blocks on average."""
    probabilities = [survival_probability(0.5, index, 54) for index in range(54)]
    assert probabilities[0] == pytest.approx(1 - 1 / 108)
    assert probabilities[-1] == 0.5
    assert sum(probabilities) == pytest.approx((3 * 54 - 1) / 4)


def test_drop_path_rises_linearly_from_none():
    assert [drop_path_rate(0.3, index, 4) for index in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_rate(0.3, 0, 1) == 0.3


def test_shortcuts_by_name():
    assert get_shortcut("pad-split").pads
    assert [name for name, shortcut in SHORTCUTS.items() if shortcut.on_every_block] == ["project-all", "conv1x1-all"]
    assert all(shortcut.description and shortcut.reference for shortcut in SHORTCUTS.values())
    with pytest.raises(ValueError, match="'pad-split'"):
        get_shortcut("padsplit")


def test_the_merge_operations_of_the_papers_exist():
    result = {role: {name for name, op in MERGE_OPS.items() if op.role is role} for role in MergeRole}
    assert result[MergeRole.MERGE] == {"add", "none", "scale", "gate", "shortcut-gate"}
    assert result[MergeRole.SHORTCUT] == {"dropout"}
    assert result[MergeRole.BRANCH] == {"stochastic-depth", "drop-path", "rezero", "skipinit", "layerscale"}
