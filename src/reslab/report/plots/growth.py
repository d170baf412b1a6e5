"""Plots of costs against sizes: small panels with logarithmic axes, and the power law that fits each line."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from reslab.report.colors import BLUE, MAGENTA, MUTED
from reslab.report.plots.study_style import make_panels
from reslab.report.plots.style import (
    DASHED,
    MIN_FONT_POINTS,
    PLOT_INCHES,
    format_log_tick,
    make_log_locator,
    plot_style,
)

_COLORS = (BLUE, MAGENTA)
_MARKERS = ("o", "s")
_COLUMNS, _PANEL_HEIGHT_INCHES = 2, 2.5


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
        num_rows = -(-len(panels) // _COLUMNS)
        width = 1.45 * PLOT_INCHES if len(panels) > 1 else PLOT_INCHES
        figure, all_axes = make_panels(
            len(panels), width, _PANEL_HEIGHT_INCHES * num_rows, columns=min(_COLUMNS, len(panels))
        )
        for panel, axes in zip(panels, all_axes, strict=True):
            _draw_panel(axes, panel)
        return figure


def _draw_panel(axes: Axes, panel: GrowthPanel) -> None:
    handles, labels = [], []
    for line, color, marker in zip(panel.lines, _COLORS, _MARKERS, strict=False):
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
