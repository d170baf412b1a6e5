"""Training curves: a few named lines against epochs.

The log of a run as lines to draw: what was measured, against the epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.plots.style import MUTED, PALETTE, add_legend_above, make_figure, plot_style
from reslab.report.series import Series, running_mean

PANEL_INCHES = (4.6, 3.1)
SMALL_PANEL_INCHES = (4.6, 1.75)
MIN_POINTS_TO_SMOOTH = 60
_LOG_SCALE_RATIO = 30.0


@dataclass(frozen=True)
class Curve:
    """A line, its name in the legend, and how it is drawn: the place of its colour in the palette, dashed or not.

    A long training line is noise as well as news: it is drawn pale as logged, and strong as its running mean.
    """

    series: Series
    label: str
    color_index: int = 0
    dashed: bool = False


def plot_loss(curves: Sequence[Curve]) -> Figure:
    """Loss against epochs, on a logarithmic scale where it spans more than a factor of 30."""
    with plot_style():
        figure, axes = make_figure(*PANEL_INCHES)
        _draw_curves(axes, curves)
        values = [y for curve in curves for y in curve.series.y]
        if values and min(values) > 0 and max(values) / min(values) > _LOG_SCALE_RATIO:
            axes.set_yscale("log")
            _format_log_ticks(axes)
        elif values and min(values) >= 0:
            axes.set_ylim(bottom=0)
        return figure


def plot_accuracy(curves: Sequence[Curve]) -> Figure:
    """Accuracy (fractions) in percent against epochs."""
    with plot_style():
        figure, axes = make_figure(*PANEL_INCHES)
        _draw_curves(axes, curves)
        low, high = axes.get_ylim()
        padding = max(0.0, 0.04 - (high - low) / 2)
        axes.set_ylim(max(-0.01, low - padding), min(1.01, high + padding))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(100 * y, 6):g} %"))
        return figure


def plot_lr(series: Series) -> Figure:
    """The learning rate against epochs, small."""
    with plot_style():
        figure, axes = make_figure(*SMALL_PANEL_INCHES)
        axes.plot(
            series.x, series.y, color=MUTED, marker="o" if len(series.x) == 1 else "", markersize=4.0, linewidth=1.5
        )
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        _format_epoch_axis(axes)
        return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    handles, labels = [], []
    for curve in curves:
        if not curve.series:
            continue
        show_markers = len(curve.series.x) <= (1 if curve.dashed else 15)
        color, main_series = PALETTE[curve.color_index % len(PALETTE)], curve.series
        if curve.series.name == "train" and len(curve.series.x) >= MIN_POINTS_TO_SMOOTH:
            axes.plot(curve.series.x, curve.series.y, color=color, alpha=0.3, linewidth=0.9)
            main_series = running_mean(curve.series)
        lines = axes.plot(
            main_series.x, main_series.y, color=color, marker="o" if show_markers else "", markersize=4.0,
            linestyle=(0, (3.2, 2.0)) if curve.dashed else "-", linewidth=1.4 if curve.dashed else 1.9,
        )  # fmt: skip
        handles.append(lines[0])
        labels.append(curve.label)
    _format_epoch_axis(axes)
    add_legend_above(axes, handles, labels)


def _format_epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epochs")
    axes.margins(x=0.02)
    first, last = axes.dataLim.intervalx
    if first > 0:
        axes.set_xlim(left=0, right=None if last > first else 2 * last)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=axes.dataLim.width > 2))


def _format_log_ticks(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
