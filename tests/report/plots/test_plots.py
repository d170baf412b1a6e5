"""Figures: they return a Figure, keep pyplot out, and take the page's colours and font as SVG."""

import math
import subprocess
import sys
from html import escape

import numpy as np
import pytest
from matplotlib.figure import Figure

from reslab.report.colors import CSS_VARIABLES, TRAINING
from reslab.report.plots.curves import GrowthLine, GrowthPanel, plot_growth, plot_metric
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles
from reslab.report.plots.export import render_inline_svg, render_svg_file
from reslab.report.plots.images import plot_confusion_matrix
from reslab.report.plots.style import make_log_locator
from reslab.report.series import Curve, Series, equal_windows, extract_series, running_mean, train_series


def _curve(values: list[float]) -> Curve:
    series = Series(tuple(float(n) for n in range(1, len(values) + 1)), tuple(values))
    return Curve(series, "training", TRAINING, is_noisy=True)


def test_every_figure_is_a_figure_and_becomes_svg() -> None:
    curves = [_curve([2.0, 1.0, 0.5]), Curve(_curve([2.1, 1.2, 0.9]).series, "validation", dashed=True)]
    figures = [
        plot_metric(curves), plot_metric(curves, "%"), plot_metric(curves[:1], is_small=True),
        plot_depth_profiles([DepthProfile("a", [1.0, 0.0, 1e-9]), DepthProfile("b", [])]),
        plot_confusion_matrix(np.eye(3).tolist(), ["a", "b", "c"]),
    ]  # fmt: skip
    for index, figure in enumerate(figures):
        assert isinstance(figure, Figure)
        text = render_inline_svg(figure, f"f{index}", "what it shows")
        assert text.startswith("<svg ")
        assert 'aria-label="what it shows"' in text
        assert "font-family" not in text
        assert "var(--muted)" in text
        assert "http" not in text


def test_a_line_that_a_later_one_covers_is_wider() -> None:
    lines = (
        plot_depth_profiles(
            [DepthProfile("a", [1.0, 2.0]), DepthProfile("b", [1.0, 2.0]), DepthProfile("c", [2.0, 1.0])]
        )
        .axes[0]
        .lines
    )
    assert lines[0].get_linewidth() > lines[1].get_linewidth() == lines[2].get_linewidth()


def test_line_styles_are_named_in_the_legend_of_networks() -> None:
    figure = plot_depth_profiles(
        [DepthProfile("a", [1.0, 2.0]), DepthProfile("", [2.0, 1.0], dashed=True)], stroke_labels=("one", "other")
    )
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "one", "other"]
    assert [line.is_dashed() for line in legend.get_lines()] == [False, False, True]


def test_long_names_of_two_lines_leave_room_for_the_axes_and_are_reported_apart() -> None:
    prefix = "/home/someone/experiments/with/a/long/path/runs"
    curves = [_curve([2.0, 1.0]), _curve([1.5, 1.2])]
    curves = [Curve(curve.series, f"{prefix}/{name}") for curve, name in zip(curves, ("first", "second"), strict=True)]
    for figure in (
        plot_metric(curves),
        plot_depth_profiles([DepthProfile(curve.label, [1.0, 2.0]) for curve in curves]),
    ):
        assert render_inline_svg(figure, "f", "label")  # a warning of axes without room would be an error
        assert figure.axes[0].get_position().width > 0.7
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert [text.get_text().rpartition("/")[2] for text in legend.get_texts()] == ["first", "second"]


def test_names_are_taken_as_they_are_not_as_formulas() -> None:
    for name in ("$x^2$", "_hidden", "a & <b>"):
        text = render_inline_svg(
            plot_metric([Curve(_curve([2.0, 1.0]).series, name), _curve([1.0, 2.0])]), "f", "label"
        )
        assert f">{escape(name)}</text>" in text
        assert f">{escape(name)}</text>" in render_inline_svg(
            plot_confusion_matrix([[1, 0], [0, 1]], [name, "b"]), "f", "label"
        )


def test_a_loss_over_decades_is_drawn_on_a_log_scale() -> None:
    assert plot_metric([_curve([2.0, 0.01])]).axes[0].get_yscale() == "log"
    assert plot_metric([_curve([2.0, 1.0])]).axes[0].get_yscale() == "linear"
    assert plot_metric([_curve([2.0, -0.01])]).axes[0].get_yscale() == "linear"


def test_the_lines_drawn_are_the_values_given() -> None:
    line = plot_metric([_curve([2.0, 1.0, 0.5])]).axes[0].get_lines()[0]
    np.testing.assert_array_equal(line.get_xydata(), [[1, 2.0], [2, 1.0], [3, 0.5]])


def test_correct_cells_are_blue_and_wrong_ones_red() -> None:
    image = np.asarray(plot_confusion_matrix([[3, 1], [0, 4]], ["a", "b"]).axes[0].get_images()[0].get_array())
    assert image[0, 0, 2] > image[0, 0, 0]
    assert image[0, 1, 0] > image[0, 1, 2]
    np.testing.assert_allclose(image[..., 3], [[0.25 + 0.75 * 0.75, 1.0], [0.0, 1.0]])


def test_a_series_drops_what_is_no_number_and_thins_by_means() -> None:
    lines = [{"epoch": n, "loss": float("nan") if n == 3 else float(n)} for n in range(1, 6)] + [{"epoch": 6}]
    line = extract_series(lines, "loss")
    assert (line.x, line.y, line.num_non_finite, line.first_non_finite) == ((1, 2, 4, 5), (1, 2, 4, 5), 1, 3)
    long = extract_series([{"epoch": n, "loss": float(n % 2)} for n in range(600)], "loss")
    assert len(long.x) == 300
    assert set(long.y) == {0.5}


def test_a_running_mean_keeps_a_straight_line_and_both_ends() -> None:
    line = Series(tuple(map(float, range(120))), tuple(3.0 * n for n in range(120)))
    np.testing.assert_allclose(running_mean(line).y, line.y)


def test_pages_are_made_without_pyplot_and_number_formats_without_matplotlib() -> None:
    code = (
        "import sys; import reslab.report.format, reslab.report.render; assert 'matplotlib' not in sys.modules;"
        "from reslab.report.render import render_page; from reslab.report.pages.run import RunPage;"
        "render_page(RunPage('bare', log=[{'kind': 'train', 'epoch': 1, 'loss': 1.0}]));"
        "assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules;"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.7), (0.41, 1.5), (120.0, 180.0)])
def test_a_very_short_logarithmic_axis_has_round_ticks(low: float, high: float) -> None:
    ticks = make_log_locator(low, high).tick_values(low, high)
    assert sum(low <= tick <= high for tick in ticks) >= 3
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_training_curves_are_averages_over_equal_windows() -> None:
    """Rows every 50 steps and at the end of each epoch of 22: windows of an epoch, each the mean of its steps."""
    losses = [3.0 / step for step in range(1, 177)]
    ends = sorted({*range(22, 177, 22), 50, 100, 150})
    starts = [0, *ends[:-1]]
    log = [
        {"kind": "train", "step": end, "epoch": end / 22, "loss": sum(losses[start:end]) / (end - start)}
        for start, end in zip(starts, ends, strict=True)
    ]
    series = train_series(log, "loss")
    assert series.x == pytest.approx(range(1, 9))
    assert series.y == pytest.approx([sum(losses[start : start + 22]) / 22 for start in range(0, 176, 22)])


def test_windows_that_are_equal_already_stay_as_they_are_and_gaps_of_nan_are_left_out() -> None:
    steps, means = [10.0, 20.0, 30.0], [3.0, 2.0, 1.0]
    assert equal_windows(steps, means) == (steps, means)
    ends, values = equal_windows([10.0, 20.0, 25.0, 40.0], [1.0, math.nan, math.nan, 4.0])
    assert ends == pytest.approx([40 / 3, 80 / 3, 40])
    assert values == pytest.approx([1.0, 4.0, 4.0])


def test_epoch_ticks_are_whole_numbers() -> None:
    for num_epochs in (2, 3, 20):
        figure = plot_metric([_curve([1.0] * num_epochs)])
        render_inline_svg(figure, "f", "label")
        ticks = figure.axes[0].get_xticks()
        assert all(tick == round(tick) for tick in ticks)


def test_blocks_are_labeled_with_their_names() -> None:
    names = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    axes = plot_depth_profiles([DepthProfile("a", [1.0] * 9)], names=names).axes[0]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels[0] == "layer1.0"
    assert labels[-1] == "layer3.2"
    assert [names[round(tick) - 1] for tick in axes.get_xticks()] == labels


def test_every_color_has_one_css_variable_with_the_same_value() -> None:
    from importlib.resources import files

    css = files("reslab.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    light = css[: css.index("@media")]
    for color, variable in CSS_VARIABLES.items():
        assert f"--{variable}: {color};" in light


SIZES = (2, 4, 16)


def test_values_and_power_laws_are_relative_to_the_first_value() -> None:
    time = GrowthLine("time", [3.0, 6.0, 30.0], exponent=1.0, factor=1.5)
    memory = GrowthLine("memory", [8.0, 32.0, 512.0], exponent=2.0, factor=2.0)
    figure = plot_growth([GrowthPanel("layers", SIZES, [time, memory])])
    axes = figure.axes[0]
    law, values, memory_law, memory_values = (list(map(float, line.get_ydata())) for line in axes.lines[:4])  # type: ignore[arg-type]
    assert values == [1.0, 2.0, 10.0]
    assert law == pytest.approx([1.0, 2.0, 8.0])
    assert memory_values == [1.0, 4.0, 64.0]
    assert memory_law == pytest.approx(memory_values)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert list(axes.get_xticks()) == list(SIZES)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["time: exponent 1.00", "memory: exponent 2.00"]


def test_four_panels_become_a_file_in_two_rows() -> None:
    panels = [GrowthPanel(f"size {number}", SIZES, [GrowthLine("time", [1, 2, 8], 1.0, 0.5)]) for number in range(4)]
    figure = plot_growth(panels)
    tops = {round(axes.get_position().y1, 2) for axes in figure.axes}
    assert len(tops) == 2
    text = render_svg_file(figure, "what grows")
    assert text == render_svg_file(plot_growth(panels), "what grows")
    assert "<title>what grows</title>" in text
