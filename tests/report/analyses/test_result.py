"""Answers as they are shown: names without what they share, snapshots from pale to strong, gaps, pictures."""

import io
import math
from dataclasses import replace

import pytest
from PIL import Image

from reslab.report.analyses import show_answers
from reslab.report.analyses.gradients import show
from reslab.report.analyses.overlay import along_training, short_names, tints
from reslab.report.analyses.result import QuestionPage
from reslab.report.plots.depth import Profile, depth_figure
from reslab.report.plots.png import png
from reslab.report.render import render_question


def answer(subject: str, decades: float = 0.5, step: int | None = None) -> dict[str, object]:
    """An answer to `gradients` as its JSON has it."""
    unit = {"name": "layer1.0", "label": "layer1.0", "input": 0.5, "weights": 2.0, "direct": 0.4, "branches": 0.3}
    unit |= {"cosine": 0.0, "shortcut_gain": 1.0, "branch_gain": 0.5, "plain_product": 0.1, "residual_sum": 0.5}
    slope = {"decades": decades, "per_unit": 10 ** (decades / 2), "verdict": "healthy", "rule": "D"}
    units = [unit, {**unit, "input": 0.2}, {**unit, "input": 0.1}]
    return {"subject": subject, "step": step, "loss": 2.3, "units": units, "slope": slope, "residual": True}


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["resnet56_cifar", "plain56_cifar"], ["resnet56_cifar", "plain56_cifar"]),
        (["a:order=x:depths=2", "a:order=y:depths=2"], ["order=x", "order=y"]),
        (["a", "a:mix=none"], ["a", "mix=none"]),
        (["runs/a", "runs/b@3"], ["a", "b@3"]),
        (["runs/a", "old/a"], ["runs/a", "old/a"]),
        (["runs/a"], ["a"]),
    ],
)
def test_names_lose_what_they_share(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


def test_snapshots_go_from_pale_to_strong_in_one_colour_and_only_the_ends_are_named() -> None:
    found = tints([answer(f"runs/a@{step}", step=step) for step in (0, 5, 9)] + [answer("runs/b")])
    assert [tint.label for tint in found] == ["a@0", "", "a@9", "b"]
    assert [tint.colour for tint in found] == [0, 0, 0, 1]
    assert found[0].strength < found[1].strength < found[2].strength == found[3].strength == 1


def test_three_snapshots_make_a_picture_along_training() -> None:
    answers = [answer(f"runs/a@{step}", step=step) for step in (0, 5, 9)]
    [figure] = along_training(answers, lambda each: each["slope"]["decades"], "D", log=False)
    assert list(figure.figure.axes[0].lines[0].get_xdata()) == [0, 5, 9]
    assert along_training(answers[:2], lambda each: 1.0, "D") == []


def test_a_value_without_a_place_on_the_scale_leaves_a_gap() -> None:
    axes = depth_figure([Profile("a", [1.0, 0.0, None, 10.0, math.inf])]).axes[0]
    drawn = axes.lines[0].get_ydata()
    assert [math.isnan(value) for value in drawn] == [False, True, True, False, True]
    assert depth_figure([Profile("a", [0.0, None])]).axes[0].lines[:] == []


def test_words_follow_the_numbers() -> None:
    grows, shrinks = show([answer("a", 2.0)]).words[0], show([answer("a", -1.0)]).words[0]
    assert "grows 10.0 times a unit, 100 times from the last of 3 units" in grows
    assert "shrinks 3.16 times a unit, 10 times" in shrinks
    assert "zero or no finite number" in show([answer("a", -math.inf)]).words[0]


def test_the_page_is_self_contained_and_the_same_twice() -> None:
    pages = [
        render_question(
            QuestionPage("gradients", "asked", "He", show_answers("gradients", [answer("<a>"), answer("b")]))
        )
        for _ in range(2)
    ]
    assert pages[0] == pages[1]
    assert "&lt;a&gt;" in pages[0]
    assert "<a>" not in pages[0]
    assert pages[0].count("<svg") == 4


def test_a_picture_of_several_figures_is_one_sheet() -> None:
    figures = show([answer("a")]).figures
    sheet = Image.open(io.BytesIO(png(figures, "Title")))
    one = Image.open(io.BytesIO(png(figures[:1])))
    assert sheet.width == 2 * one.width
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one figure"):
        png([])


def test_the_words_of_a_figure_stand_below_it_on_the_sheet() -> None:
    figure = replace(show([answer("a")]).figures[0], caption="")
    bare, told = (
        Image.open(io.BytesIO(png([replace(figure, caption=words)])))
        for words in ("", "Solid: what came. Dashed: what was told. " * 8)
    )
    assert told.width == bare.width
    assert told.height > bare.height + 40
    below = told.crop((0, bare.height, told.width, told.height)).convert("L")
    assert below.getextrema()[0] < 150
    assert below.crop((below.width - 8, 0, below.width, below.height)).getextrema()[0] == 255  # nothing is cut off


@pytest.mark.parametrize(("low", "high"), [(0.82, 1.0), (1.01, 1.9), (0.003, 0.03), (1e-9, 1.0)])
def test_a_logarithmic_axis_has_ticks_enough_to_be_read(low: float, high: float) -> None:
    axes = depth_figure([Profile("a", [low, high])]).axes[0]
    bottom, top = axes.get_ylim()
    assert sum(bottom <= tick <= top for tick in axes.get_yticks()) >= 3


def test_an_unknown_question_is_named() -> None:
    with pytest.raises(ValueError, match="gradients"):
        show_answers("gradient", [])
