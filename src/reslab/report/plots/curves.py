"""Training curves: a few named lines against epochs.

The log of a run as lines to draw: what was measured, against the epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.plots.style import MUTED, SERIES, empty_panel, legend_above, styled
from reslab.report.series import Series, running_mean

PANEL_INCHES = (4.6, 3.1)
SMALL_PANEL_INCHES = (4.6, 1.75)
FEWEST_SMOOTHED = 60
_LOG_SPAN = 30.0


@dataclass(frozen=True)
class Curve:
    """A line, its name in the legend, and how it is drawn: the place of its colour in the palette, dashed or not.

    A long training line is noise as well as news: it is drawn pale as logged, and strong as its running mean.
    """

    line: Series
    label: str
    colour: int = 0
    dashed: bool = False


def loss_figure(curves: Sequence[Curve]) -> Figure:
    """Loss against epochs, on a logarithmic scale where it spans more than a factor of 30."""
    with styled():
        figure, axes = empty_panel(*PANEL_INCHES)
        _draw(axes, curves)
        values = [y for curve in curves for y in curve.line.y]
        if values and min(values) > 0 and max(values) / min(values) > _LOG_SPAN:
            axes.set_yscale("log")
            _plain_log_ticks(axes)
        elif values and min(values) >= 0:
            axes.set_ylim(bottom=0)
        return figure


def accuracy_figure(curves: Sequence[Curve]) -> Figure:
    """Accuracy (fractions) in percent against epochs."""
    with styled():
        figure, axes = empty_panel(*PANEL_INCHES)
        _draw(axes, curves)
        low, high = axes.get_ylim()
        spare = max(0.0, 0.04 - (high - low) / 2)
        axes.set_ylim(max(-0.01, low - spare), min(1.01, high + spare))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(100 * y, 6):g} %"))
        return figure


def rate_figure(line: Series) -> Figure:
    """The learning rate against epochs, small."""
    with styled():
        figure, axes = empty_panel(*SMALL_PANEL_INCHES)
        axes.plot(line.x, line.y, color=MUTED, marker="o" if len(line.x) == 1 else "", markersize=4.0, linewidth=1.5)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        _epochs(axes)
        return figure


def _draw(axes: Axes, curves: Sequence[Curve]) -> None:
    handles, labels = [], []
    for curve in curves:
        if not curve.line:
            continue
        few = len(curve.line.x) <= (1 if curve.dashed else 15)
        colour, strong = SERIES[curve.colour % len(SERIES)], curve.line
        if curve.line.name == "train" and len(curve.line.x) >= FEWEST_SMOOTHED:
            axes.plot(curve.line.x, curve.line.y, color=colour, alpha=0.3, linewidth=0.9)
            strong = running_mean(curve.line)
        drawn = axes.plot(
            strong.x, strong.y, color=colour, marker="o" if few else "", markersize=4.0,
            linestyle=(0, (3.2, 2.0)) if curve.dashed else "-", linewidth=1.4 if curve.dashed else 1.9,
        )  # fmt: skip
        handles.append(drawn[0])
        labels.append(curve.label)
    _epochs(axes)
    legend_above(axes, handles, labels)


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epochs")
    axes.margins(x=0.02)
    first, last = axes.dataLim.intervalx
    if first > 0:
        axes.set_xlim(left=0, right=None if last > first else 2 * last)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=axes.dataLim.width > 2))


def _plain_log_ticks(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
