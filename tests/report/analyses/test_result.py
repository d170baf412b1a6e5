"""Answers as they are shown: names without what they share, snapshots from pale to strong, gaps, images."""

import io
import math
from dataclasses import replace

import pytest
from PIL import Image

from reslab.report.analyses import render_analysis
from reslab.report.analyses.gradients import render_gradients
from reslab.report.analyses.result import line_styles, render_snapshots, shorten_names
from reslab.report.pages.analysis import AnalysisPage
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles
from reslab.report.plots.export import render_png
from reslab.report.render import render_page


def gradient_result(subject: str, decades: float = 0.5, step: int | None = None) -> dict[str, object]:
    """An answer to `gradients` as its JSON has it."""
    unit = {
        "name": "layer1.0",
        "label": "layer1.0",
        "input_norm": 0.5,
        "weight_norm": 2.0,
        "shortcut_norm": 0.4,
        "branch_norm": 0.3,
    }
    unit |= {"cosine": 0.0, "shortcut_gain": 1.0, "branch_gain": 0.5, "plain_product": 0.1, "residual_product": 0.5}
    slope = {"decades": decades, "factor_per_block": 10 ** (decades / 2), "verdict": "healthy", "rule": "D"}
    units = [unit, {**unit, "input_norm": 0.2}, {**unit, "input_norm": 0.1}]
    return {"model": subject, "step": step, "loss": 2.3, "blocks": units, "slope": slope, "is_residual": True}


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["resnet56_cifar", "plain56_cifar"], ["resnet56_cifar", "plain56_cifar"]),
        (["a:order=x:depths=2", "a:order=y:depths=2"], ["order=x", "order=y"]),
        (["a", "a:merge=none"], ["a", "merge=none"]),
        (["runs/a", "runs/b@3"], ["a", "b@3"]),
        (["runs/a", "old/a"], ["runs/a", "old/a"]),
        (["runs/a"], ["a"]),
    ],
)
def test_names_lose_what_they_share(names: list[str], short: list[str]) -> None:
    assert shorten_names(names) == short


def test_snapshots_go_from_pale_to_strong_in_one_colour_and_only_the_ends_are_named() -> None:
    result = line_styles(
        [gradient_result(f"runs/a@{step}", step=step) for step in (0, 5, 9)] + [gradient_result("runs/b")]
    )
    assert [tint.label for tint in result] == ["a@0", "", "a@9", "b"]
    assert [tint.color_index for tint in result] == [0, 0, 0, 1]
    assert result[0].alpha < result[1].alpha < result[2].alpha == result[3].alpha == 1


def test_three_snapshots_add_a_figure_over_training() -> None:
    results = [gradient_result(f"runs/a@{step}", step=step) for step in (0, 5, 9)]
    [figure] = render_snapshots(results, lambda each: each["slope"]["decades"], "D", log=False)
    assert list(figure.figure.axes[0].lines[0].get_xdata()) == [0, 5, 9]
    assert render_snapshots(results[:2], lambda each: 1.0, "D") == []


def test_a_value_that_the_scale_cannot_show_leaves_a_gap() -> None:
    axes = plot_depth_profiles([DepthProfile("a", [1.0, 0.0, None, 10.0, math.inf])]).axes[0]
    drawn = axes.lines[0].get_ydata()
    assert [math.isnan(value) for value in drawn] == [False, True, True, False, True]
    assert plot_depth_profiles([DepthProfile("a", [0.0, None])]).axes[0].lines[:] == []


def test_the_text_follows_the_numbers() -> None:
    grows, shrinks = (
        render_gradients([gradient_result("a", 2.0)]).paragraphs[0],
        render_gradients([gradient_result("a", -1.0)]).paragraphs[0],
    )
    assert "grows 10.0 times per block, 100 times from the last of 3 blocks" in grows
    assert "shrinks 3.16 times per block, 10 times" in shrinks
    assert "zero or not finite" in render_gradients([gradient_result("a", -math.inf)]).paragraphs[0]


def test_the_page_is_self_contained_and_the_same_twice() -> None:
    pages = [
        render_page(
            AnalysisPage(
                "gradients", "asked", "He", render_analysis("gradients", [gradient_result("<a>"), gradient_result("b")])
            )
        )
        for _ in range(2)
    ]
    assert pages[0] == pages[1]
    assert "&lt;a&gt;" in pages[0]
    assert "<a>" not in pages[0]
    assert pages[0].count("<svg") == 4


def test_several_figures_become_one_png() -> None:
    figures = render_gradients([gradient_result("a")]).figures
    sheet = Image.open(io.BytesIO(render_png(figures, "Title")))
    one = Image.open(io.BytesIO(render_png(figures[:1])))
    assert sheet.width == 2 * one.width
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="at least one figure"):
        render_png([])


def test_captions_are_below_their_figures_in_the_png() -> None:
    figure = replace(render_gradients([gradient_result("a")]).figures[0], caption="")
    bare, described = (
        Image.open(io.BytesIO(render_png([replace(figure, caption=words)])))
        for words in ("", "Solid: what came. Dashed: what was described. " * 8)
    )
    assert described.width == bare.width
    assert described.height > bare.height + 40
    below = described.crop((0, bare.height, described.width, described.height)).convert("L")
    assert below.getextrema()[0] < 150
    assert below.crop((below.width - 8, 0, below.width, below.height)).getextrema()[0] == 255  # nothing is cut off


@pytest.mark.parametrize(("low", "high"), [(0.82, 1.0), (1.01, 1.9), (0.003, 0.03), (1e-9, 1.0)])
def test_a_logarithmic_axis_has_ticks_enough_to_be_read(low: float, high: float) -> None:
    axes = plot_depth_profiles([DepthProfile("a", [low, high])]).axes[0]
    bottom, top = axes.get_ylim()
    assert sum(bottom <= tick <= top for tick in axes.get_yticks()) >= 3


def test_an_unknown_analysis_is_an_error() -> None:
    with pytest.raises(ValueError, match="gradients"):
        render_analysis("gradient", [])
