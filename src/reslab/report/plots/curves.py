"""Curves of metrics: against epochs of training, and against the learning rate of a range test."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.colors import GREEN, MUTED, TRAINING, network_color
from reslab.report.plots.style import DASHED, PLOT_INCHES, add_legend_above, make_figure, plot_style
from reslab.report.series import Curve, running_mean

_PANEL_INCHES, _SMALL_PANEL_INCHES = (4.6, 3.1), (4.6, 1.75)
_MIN_POINTS_TO_SMOOTH = 60
_LOG_SCALE_RATIO = 30.0
_MAX_LOSS_RATIO = 1.6
Limits = tuple[float, float]


def plot_metric(
    curves: Sequence[Curve], unit: str = "", *, limits: Limits | None = None, is_small: bool = False
) -> Figure:
    """Plot a metric against epochs. Fractions of unit `%` are written in percent.

    Other values start at 0; where they span more than a factor of 30, the scale is logarithmic. `limits` replace the
    range of the y axis, so that several plots share it.
    """
    with plot_style():
        figure, axes = make_figure(*(_SMALL_PANEL_INCHES if is_small else _PANEL_INCHES))
        _draw_curves(axes, curves)
        if unit != "%" and not is_small and _needs_log_scale(curves):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=7))
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif is_small:
            axes.yaxis.set_major_locator(MaxNLocator(3))
        elif unit == "%":
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: f"{round(100 * y, 6):g} %" if unit == "%" else f"{y:g}")
        )
        low, high = limits or y_limits(curves, unit)
        if math.isfinite(low) and low < high:
            axes.set_ylim(low, high)
        return figure


def plot_precision_recall(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> Figure:
    """Plot precision against recall, one step line for each (label, recall, precision)."""
    with plot_style():
        figure, axes = make_figure(PLOT_INCHES, 3.3)
        handles = [
            axes.step(recall, precision, where="post", color=network_color(index), linewidth=1.6)[0]
            for index, (_, recall, precision) in enumerate(curves)
        ]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda fraction, _: f"{round(100 * fraction, 6):g} %"))
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.02, 1.03)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        add_legend_above(axes, handles, [label for label, _, _ in curves])
        return figure


def y_limits(curves: Sequence[Curve], unit: str = "") -> Limits:
    """Return the range of the y axis that holds all the curves with a margin, so that no point is cut off."""
    values = [y for curve in curves for y in curve.series.y]
    if not values:
        return math.nan, math.nan
    low, high = min(values), max(values)
    if unit == "%":
        margin = max(0.05 * (high - low), 0.04 - (high - low) / 2)
        return max(-0.01, low - margin), min(1.01, high + margin)
    if _needs_log_scale(curves):
        margin = (high / low) ** 0.05
        return low / margin, high * margin
    margin = 0.05 * (high - min(low, 0.0)) or 1.0
    return (0.0 if low >= 0 else low - margin), high + margin


def _needs_log_scale(curves: Sequence[Curve]) -> bool:
    values = [y for curve in curves for y in curve.series.y]
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_SCALE_RATIO


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    handles, labels = [], []
    for curve in curves:
        if not curve.series:
            continue
        show_markers = len(curve.series.x) <= (1 if curve.dashed else 15)
        main_series = curve.series
        if curve.is_noisy and len(curve.series.x) >= _MIN_POINTS_TO_SMOOTH:
            axes.plot(curve.series.x, curve.series.y, color=curve.color, alpha=0.3, linewidth=0.9)
            main_series = running_mean(curve.series)
        lines = axes.plot(
            main_series.x, main_series.y, color=curve.color, marker="o" if show_markers else "", markersize=4.0,
            linestyle=DASHED if curve.dashed else "-", linewidth=1.5 if curve.dashed else 1.9,
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
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=last >= 1))


def plot_lr_finder(
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed_losses: Sequence[float],
    *,
    marks: Mapping[str, float | None],
) -> Figure:
    """Plot the loss of each step (pale) and the smoothed loss against the learning rate, on a logarithmic scale.

    `marks` are named learning rates, the first of them the main one; None is left out. A diverging loss leaves the
    panel, so that the fall before it stays visible.
    """
    with plot_style():
        figure, axes = make_figure(PLOT_INCHES, 3.2)
        axes.plot(lrs, losses, color=TRAINING, alpha=0.35, linewidth=0.9)
        handles = [axes.plot(lrs, smoothed_losses, color=TRAINING, linewidth=1.9)[0]]
        labels = ["smoothed loss"]
        for index, (name, lr) in enumerate(marks.items()):
            if lr is not None:
                color, style = GREEN if index == 0 else MUTED, DASHED if index <= 1 else ":"
                handles.append(axes.axvline(lr, color=color, linewidth=1.4, linestyle=style))
                labels.append(f"{name}, {lr:.2g}")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        lowest, first = min(*losses, *smoothed_losses), smoothed_losses[0]
        limit = max(_MAX_LOSS_RATIO * first, lowest + 1e-3)
        if math.isfinite(limit) and max(losses) > limit:
            axes.set_ylim(max(0.0, lowest - 0.1 * (limit - lowest)), limit)
        add_legend_above(axes, handles, labels)
        return figure
