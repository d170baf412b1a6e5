"""Precision-recall curves of a detector: of all classes together, and small ones of each class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from reslab.report.colors import EVALUATION
from reslab.report.format import format_percent
from reslab.report.plots.style import DASHED, DOTTED, MIN_FONT_POINTS, PLOT_INCHES, add_legend_above, plot_style

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
