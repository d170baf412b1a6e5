"""Lines and dots: metrics against epochs, loss against learning rate, precision against recall, costs against sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from reslab.report.colors import BLUE, EVALUATION, GREEN, MAGENTA, MUTED, TRAINING, network_color
from reslab.report.format import format_percent
from reslab.report.plots.style import (
    DASHED,
    DOTTED,
    MIN_FONT_POINTS,
    PLOT_INCHES,
    add_legend_above,
    format_log_tick,
    make_figure,
    make_log_locator,
    make_panels,
    plot_style,
)
from reslab.report.series import Curve, running_mean

_COLUMNS, _CELL_INCHES = 3, 1.5
_MAX_NAME_LENGTH = 11
_WIDTH, _SMALL_WIDTH = 1.9, 1.4  # points
_STYLES = ("-", DASHED, DOTTED)


@dataclass(frozen=True)
class PrecisionCurves:
    """The curves of a class: its name, its average precision, and the precision of each curve at each recall."""

    name: str
    ap: float
    precision: Sequence[Sequence[float]]


def plot_precision_curves(recall: Sequence[float], curves: Sequence[Sequence[float]], labels: Sequence[str]) -> Figure:
    """Plot the precision of up to three curves against recall, the first solid, the second dashed, then dotted."""
    with plot_style():
        figure = Figure(figsize=(PLOT_INCHES, 3.5), layout="constrained")
        axes = figure.add_subplot()
        handles = _draw(axes, recall, curves, _WIDTH)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        add_legend_above(axes, handles, list(labels))
        return figure


def plot_class_precision(recall: Sequence[float], classes: Sequence[PrecisionCurves]) -> Figure:
    """Plot a small panel for each class, three in a row, with its average precision above."""
    with plot_style():
        rows = math.ceil(len(classes) / _COLUMNS)
        figure = Figure(figsize=(PLOT_INCHES, 0.3 + rows * _CELL_INCHES), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
        for axes, curves in zip(grid.flat, classes, strict=False):
            _draw(axes, recall, curves.precision, _SMALL_WIDTH)
            title = f"{_shorten(curves.name)} {format_percent(curves.ap, 1)}"
            axes.set_title(title, fontsize=MIN_FONT_POINTS, loc="left", pad=3)
        for axes in grid.flat[len(classes) :]:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("recall", fontsize=MIN_FONT_POINTS)
        figure.supylabel("precision", fontsize=MIN_FONT_POINTS)
        return figure


def _draw(axes: Axes, recall: Sequence[float], curves: Sequence[Sequence[float]], width: float) -> list[object]:
    lines = [
        axes.plot(recall, curve, color=EVALUATION, linestyle=style, linewidth=width if style == "-" else 0.8 * width)
        for curve, style in zip(curves, _STYLES, strict=False)
    ]
    is_small = width < _WIDTH
    ticks = (0, 0.5, 1) if is_small else (0, 0.2, 0.4, 0.6, 0.8, 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(_format_small if is_small else _format_fraction))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.02, 1.04)
    return [line[0] for line in lines]


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"


def _format_fraction(fraction: float, _: object) -> str:
    return f"{100 * fraction:g} %"


def _format_small(fraction: float, _: object) -> str:
    return _format_fraction(fraction, _) if fraction == 1 else f"{100 * fraction:g}"


_MAX_OPAQUE_POINTS = 200


def plot_predicted_against_true(true: Sequence[float], predicted: Sequence[float], name: str) -> Figure:
    """Plot one dot a sample, both axes with the same limits, and the line on which they are equal."""
    with plot_style():
        figure, axes = make_figure(PLOT_INCHES * 0.8, PLOT_INCHES * 0.8)
        low, high = min(*true, *predicted), max(*true, *predicted)
        margin = 0.04 * (high - low) or 0.5
        limits = low - margin, high + margin
        axes.plot(limits, limits, color=MUTED, linewidth=1.1, linestyle=DASHED)
        alpha = 0.75 if len(true) <= _MAX_OPAQUE_POINTS else 0.3
        axes.plot(
            true, predicted, color=EVALUATION, marker="o", markersize=4.0, linestyle="none", alpha=alpha,
            markeredgewidth=0,
        )  # fmt: skip
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        return figure


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


_GROWTH_COLORS = (BLUE, MAGENTA)
_GROWTH_MARKERS = ("o", "s")
_GROWTH_COLUMNS, _GROWTH_PANEL_INCHES = 2, 2.5


@dataclass(frozen=True)
class GrowthLine:
    """Values at the sizes of a panel, and the fitted power law `factor` x size ^ `exponent`."""

    label: str
    values: Sequence[float]
    exponent: float
    factor: float


@dataclass(frozen=True)
class GrowthPanel:
    """A size, such as the number of layers, and at most two lines over it."""

    xlabel: str
    sizes: Sequence[float]
    lines: Sequence[GrowthLine]


def plot_growth(panels: Sequence[GrowthPanel]) -> Figure:
    """Plot every line relative to its first value, the power laws dashed; both axes are logarithmic."""
    with plot_style():
        num_rows = -(-len(panels) // _GROWTH_COLUMNS)
        width = 1.45 * PLOT_INCHES if len(panels) > 1 else PLOT_INCHES
        figure, all_axes = make_panels(
            len(panels), width, _GROWTH_PANEL_INCHES * num_rows, columns=min(_GROWTH_COLUMNS, len(panels))
        )
        for panel, axes in zip(panels, all_axes, strict=True):
            _draw_growth(axes, panel)
        return figure


def _draw_growth(axes: Axes, panel: GrowthPanel) -> None:
    handles, labels = [], []
    for line, color, marker in zip(panel.lines, _GROWTH_COLORS, _GROWTH_MARKERS, strict=False):
        first = line.values[0]
        fitted = [line.factor * size**line.exponent / first for size in panel.sizes]
        axes.plot(panel.sizes, fitted, color=color, linewidth=1.1, linestyle=DASHED)
        relative = [value / first for value in line.values]
        handles += axes.plot(panel.sizes, relative, color=color, marker=marker, markersize=4.6, linestyle="none")
        labels.append(f"{line.label}: exponent {line.exponent:.2f}")
    axes.axhline(1.0, color=MUTED, linewidth=0.7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(panel.sizes)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(make_log_locator(*axes.get_ylim()))
    axes.yaxis.set_major_formatter(FuncFormatter(format_log_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel("relative to the first")
    axes.legend(handles, labels, loc="upper left", borderaxespad=0.1, handletextpad=0.3, fontsize=MIN_FONT_POINTS)
