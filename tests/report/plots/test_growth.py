"""Growth: values relative to the first, on logarithmic axes, with the fitted power law."""

import pytest

from reslab.report.plots.export import render_svg_file
from reslab.report.plots.growth import GrowthLine, GrowthPanel, plot_growth

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
