"""Bars and dots: the reliability diagram, image sizes, and the throughput of backends."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from reslab.report.colors import EVALUATION, GREEN, GRID, INK, MUTED, TRAINING
from reslab.report.format import format_number, format_split
from reslab.report.plots.style import DASHED, PLOT_INCHES, add_legend_above, make_figure, plot_style

ReliabilityBins = Sequence[Mapping[str, Any]]
_PALE_ALPHA = 0.35
_DOT_STYLE: dict[str, Any] = {
    "color": GREEN,
    "marker": "o",
    "markersize": 5.0,
    "markeredgewidth": 1.3,
    "linestyle": "none",
}


def plot_reliability(bins: ReliabilityBins, bins_after: ReliabilityBins, min_samples: int) -> Figure:
    """Plot accuracy against confidence in bins of `low`, `high`, `num_samples`, `confidence` and `accuracy`.

    The diagonal is perfect calibration. Bins of fewer than `min_samples` images are pale. `bins_after` temperature
    scaling are dots at their mean confidence. Below are the images of each bin. After DeGroot and Fienberg 1983; Guo et
    al. 2017, Figure 1.
    """
    with plot_style():
        figure = Figure(figsize=(PLOT_INCHES, 4.4), layout="constrained")
        accuracy_axes, count_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        _draw_bars(accuracy_axes, bins, min_samples)
        handles: list[Any] = [Patch(color=EVALUATION, linewidth=0)]
        handles += accuracy_axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=DASHED)
        labels = ["accuracy", "perfect calibration"]
        if any(entry["num_samples"] for entry in bins_after):
            _draw_dots(accuracy_axes, bins_after, min_samples)
            handles.append(Line2D([], [], **_DOT_STYLE))
            labels.append("after scaling")
        _draw_counts(count_axes, bins)
        for axis in (accuracy_axes.yaxis, count_axes.xaxis):
            axis.set_major_formatter(FuncFormatter(lambda fraction, _: f"{100 * fraction:g} %"))
        accuracy_axes.set_xlim(0, 1)
        accuracy_axes.set_ylim(0, 1)
        count_axes.set_xlabel("confidence")
        accuracy_axes.set_ylabel("accuracy")
        add_legend_above(accuracy_axes, handles, labels)
        return figure


def _draw_bars(axes: Axes, bins: ReliabilityBins, min_samples: int) -> None:
    for entry in bins:
        if entry["num_samples"]:
            is_pale = entry["num_samples"] < min_samples
            axes.bar(
                *_bar_geometry(entry, entry["accuracy"]),
                color=EVALUATION,
                alpha=_PALE_ALPHA if is_pale else 1.0,
                align="edge",
            )


def _draw_dots(axes: Axes, bins: ReliabilityBins, min_samples: int) -> None:
    for entry in bins:
        if entry["num_samples"]:
            face_color = "none" if entry["num_samples"] < min_samples else GREEN
            axes.plot(entry["confidence"], entry["accuracy"], **_DOT_STYLE, markerfacecolor=face_color, clip_on=False)


def _draw_counts(axes: Axes, bins: ReliabilityBins) -> None:
    for entry in bins:
        if entry["num_samples"]:
            axes.bar(*_bar_geometry(entry, entry["num_samples"]), color=MUTED, align="edge")
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.set_ylabel("images")


def _bar_geometry(entry: Mapping[str, Any], height: float) -> tuple[float, float, float]:
    """Return x, height and width of a bin's bar, with a thin gap to its neighbors."""
    width = entry["high"] - entry["low"]
    return entry["low"] + 0.06 * width, height, 0.88 * width


ImageSizes = Mapping[str, Sequence[tuple[int, int]]]
_LOG_SCALE_RATIO = 8.0


def plot_image_sizes(sizes: ImageSizes) -> Figure:
    """Plot the (height, width) of each image by split, on logarithmic scales where they span a factor of 8.

    The area of a dot grows with the number of images of that size; on the thin line images are square.
    """
    with plot_style():
        figure, axes = make_figure(4.6, 3.6)
        sides = [side for split in sizes.values() for size in split for side in size]
        low, high = min(sides), max(sides)
        margin = max(1.0, 0.04 * (high - low))
        axes.plot([low, high], [low, high], color=GRID, linewidth=1.2, zorder=0)
        handles = []
        for split, split_sizes in sizes.items():
            size_counts = Counter(split_sizes)
            max_count = max(size_counts.values())
            handles.append(
                axes.scatter(
                    [width for _, width in size_counts], [height for height, _ in size_counts],
                    s=[14 + 150 * (n / max_count if max_count > 1 else 0) for n in size_counts.values()],
                    color=TRAINING if split == "train" else EVALUATION, alpha=0.55, linewidth=0,
                )
            )  # fmt: skip
        axes.grid(True, axis="both")
        axes.set_xlabel("width, pixels")
        axes.set_ylabel("height, pixels")
        if high > _LOG_SCALE_RATIO * low:
            for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
                set_scale("log")
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(low - margin, high + margin)
            axes.set_ylim(low - margin, high + margin)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        add_legend_above(axes, handles, [format_split(split) for split in sizes])
        return figure


def plot_throughput(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the median of each result as a bar, the fastest on top, with a thin line from the slowest to the fastest."""
    ordered = sorted(results, key=lambda result: result["images_per_second"])
    with plot_style():
        figure, axes = make_figure(PLOT_INCHES, 0.8 + 0.32 * len(ordered))
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        max_throughput = max(max(result["images_per_second_range"]) for result in ordered)
        for index, result in enumerate(ordered):
            median, (slowest, fastest) = result["images_per_second"], result["images_per_second_range"]
            axes.barh(index, median, height=0.62, color=GREEN)
            axes.plot([slowest, fastest], [index, index], color=INK, linewidth=1.2)
            axes.text(fastest + 0.015 * max_throughput, index, format_number(median, 3), va="center", color=INK)
        axes.set_yticks(range(len(ordered)), [f"{result['backend']}, {result['precision']}" for result in ordered])
        axes.set_xlim(0, 1.13 * max_throughput)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.set_xlabel("images/s")
        return figure
