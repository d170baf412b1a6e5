"""The reliability diagram: how often a network was right, by how sure it was, and how many images that was."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reslab.report.plots.style import BLUE, MUTED, VERMILION, legend_above, styled

Bins = Sequence[Mapping[str, Any]]
FEW = 10  # a share of fewer images than this is drawn pale
_PALE = 0.35
_DOT: dict[str, Any] = {
    "color": VERMILION,
    "marker": "o",
    "markersize": 5.0,
    "markeredgewidth": 1.3,
    "linestyle": "none",
}


def reliability_figure(bins: Bins, scaled: Bins = ()) -> Figure:
    """Accuracy against confidence in bins of `low`, `high`, `num_samples`, `confidence`, `accuracy`, with the diagonal.

    `scaled` are the bins after a temperature, as dots at their mean confidence. Below, the images of each bin. After
    DeGroot and Fienberg 1983; Guo et al. 2017, Figure 1.
    """
    with styled():
        figure = Figure(figsize=(5.8, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        _bars(above, bins)
        handles: list[Any] = [Patch(color=BLUE, linewidth=0)]
        handles += above.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (3.2, 2.0)))
        labels = ["right", "as sure as right"]
        if any(one["num_samples"] for one in scaled):
            _dots(above, scaled)
            handles.append(Line2D([], [], **_DOT))
            labels.append("after temperature")
        _counts(below, bins)
        for axis in (above.yaxis, below.xaxis):
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        below.set_xlabel("confidence")
        legend_above(above, handles, labels)
        return figure


def _bars(axes: Axes, bins: Bins) -> None:
    for one in bins:
        if one["num_samples"]:
            pale = one["num_samples"] < FEW
            axes.bar(*_place(one, one["accuracy"]), color=BLUE, alpha=_PALE if pale else 1.0, align="edge")


def _dots(axes: Axes, bins: Bins) -> None:
    for one in bins:
        if one["num_samples"]:
            inside = "none" if one["num_samples"] < FEW else VERMILION
            axes.plot(one["confidence"], one["accuracy"], **_DOT, markerfacecolor=inside, clip_on=False)


def _counts(axes: Axes, bins: Bins) -> None:
    for one in bins:
        if one["num_samples"]:
            axes.bar(*_place(one, one["num_samples"]), color=MUTED, align="edge")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.set_ylabel("images")


def _place(one: Mapping[str, Any], height: float) -> tuple[float, float, float]:
    """x, height and width of a bin's bar, a thin gap left between neighbours."""
    width = one["high"] - one["low"]
    return one["low"] + 0.06 * width, height, 0.88 * width
