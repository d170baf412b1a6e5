"""Training curves: a few named lines against epochs.

The log of a run as lines to draw: what was measured, against the epochs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.plots.style import MUTED, SERIES, empty_panel, legend_above, styled

MOST_POINTS = 300
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """A named line: x and y of equal length, all finite; `num_lost` counts the values that were no numbers."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    num_lost: int = 0
    first_lost: float = math.nan

    def __bool__(self) -> bool:
        return bool(self.x)


def splits(log: Log) -> list[str]:
    """The splits that were evaluated during training, in the order in which they first appear."""
    return list(dict.fromkeys(str(line.get("split", "held-out")) for line in log if line.get("kind") == "eval"))


def train_series(log: Log, value: str) -> Series:
    """The values `value` (loss, top1, lr) of the training lines."""
    return series("train", (line for line in log if line.get("kind") == "train"), value)


def eval_series(log: Log, split: str, value: str) -> Series:
    """The values `value` (loss, top1) of the evaluations of `split`."""
    lines = (line for line in log if line.get("kind") == "eval" and str(line.get("split", "held-out")) == split)
    return series(split, lines, value)


def series(name: str, lines: Iterable[Mapping[str, Any]], value: str) -> Series:
    """The line of `value` against epochs, without what is missing or no number, thinned to MOST_POINTS by means."""
    pairs = [(_number(line.get("epoch", line.get("step"))), _number(line[value])) for line in lines if value in line]
    lost = [x for x, y in pairs if not math.isfinite(y)]
    kept = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    kept = _thinned(sorted(kept, key=lambda pair: pair[0]))
    return Series(name, tuple(x for x, _ in kept), tuple(y for _, y in kept), len(lost), lost[0] if lost else math.nan)


def last_value(line: Series) -> float:
    """Where a noisy line ends: the mean over its last tenth; NaN where it is empty."""
    tail = line.y[-max(1, len(line.y) // 10) :]
    return sum(tail) / len(tail) if tail else math.nan


def running_mean(line: Series) -> Series:
    """Each value's mean with its neighbours, a thirtieth of the line in all; fewer neighbours towards both ends."""
    reach = max(1, len(line.y) // 60)
    means = []
    for place in range(len(line.y)):
        side = min(reach, place, len(line.y) - 1 - place)
        near = line.y[place - side : place + side + 1]
        means.append(sum(near) / len(near))
    return replace(line, y=tuple(means))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _thinned(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    width = math.ceil(len(pairs) / MOST_POINTS)
    if width <= 1:
        return pairs
    bins = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return [(sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in bins]


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
