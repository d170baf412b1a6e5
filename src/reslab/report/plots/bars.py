"""The reliability diagram: how often a network was right, by how sure it was, and how many images that was.

The sizes of pictures: one dot a size, larger where there are more.

Images a second of each engine and precision, as bars.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from reslab.report.format import number
from reslab.report.plots.style import BLUE, GRID, INK, MUTED, SERIES, VERMILION, empty_panel, legend_above, styled

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


Sizes = Mapping[str, Sequence[tuple[int, int]]]
_LOG_SPAN = 8.0


def sizes_figure(sizes: Sizes) -> Figure:
    """Height against width in pixels, (height, width) of each picture by split; logarithmic where they span much.

    The area of a dot grows with the number of pictures of that size; the thin line is the square.
    """
    with styled():
        figure, axes = empty_panel(4.6, 3.6)
        every = [side for split in sizes.values() for size in split for side in size]
        low, high = min(every), max(every)
        margin = max(1.0, 0.04 * (high - low))
        axes.plot([low, high], [low, high], color=GRID, linewidth=1.2, zorder=0)
        handles = []
        for place, (_, found) in enumerate(sizes.items()):
            times = Counter(found)
            most = max(times.values())
            handles.append(
                axes.scatter(
                    [width for _, width in times], [height for height, _ in times],
                    s=[14 + 150 * (number / most if most > 1 else 0) for number in times.values()],
                    color=SERIES[place % len(SERIES)], alpha=0.55, linewidth=0,
                )
            )  # fmt: skip
        axes.grid(True, axis="both")
        axes.set_xlabel("width")
        axes.set_ylabel("height")
        if high > _LOG_SPAN * low:
            for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
                scale("log")
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(low - margin, high + margin)
            axes.set_ylim(low - margin, high + margin)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        legend_above(axes, handles, list(sizes))
        return figure


# A colour a precision, the same in every panel.
_COLOURS = dict(zip(("float32", "bf16", "int8", "fp16"), SERIES, strict=True))


def speed_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """One bar a result, the quickest on top: its median, and a thin line from the slowest round to the quickest."""
    ordered = sorted(results, key=lambda each: each["images_per_second"])
    with styled():
        figure, axes = empty_panel(5.2, 0.8 + 0.32 * len(ordered))
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        most = max(max(each["images_per_second_range"]) for each in ordered)
        for place, each in enumerate(ordered):
            value, (slow, quick) = each["images_per_second"], each["images_per_second_range"]
            axes.barh(place, value, height=0.62, color=_COLOURS.get(each["precision"], MUTED))
            axes.plot([slow, quick], [place, place], color=INK, linewidth=1.2)
            axes.text(quick + 0.015 * most, place, number(value, 3), va="center", color=INK)
        axes.set_yticks(range(len(ordered)), [f"{each['engine']}, {each['precision']}" for each in ordered])
        axes.set_xlim(0, 1.13 * most)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.set_xlabel("images/s")
        return figure
