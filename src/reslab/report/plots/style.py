"""The style of every plot: fonts, thin lines, a legend above the axes, and logarithmic ticks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from reslab.report.colors import GRID, INK, MUTED

# Little text is smaller than MIN_FONT_POINTS, and no plot of one panel is wider than PLOT_INCHES: a page of 390 px
# shows such a plot without scrolling, with text of at least 9 px.
MIN_FONT_POINTS = 9.0
PLOT_INCHES = 4.9
DASHED, DOTTED = (0, (3.2, 2.0)), (0, (1.0, 1.8))

_CHARACTER_INCHES = 0.066
_RC_PARAMS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reslab",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.9,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.major.size": 4.0,
    "xtick.minor.size": 0.0,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": True,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """Apply the style, and none of the user's own settings, within the `with` block."""
    with matplotlib.style.context(["default", _RC_PARAMS]):
        yield


def make_figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    """Return a figure with one set of axes."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    return figure, figure.add_subplot()


def make_panels(
    num_panels: int, width_inches: float, height_inches: float, *, columns: int = 0
) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels in rows of `columns` (0: all in one row), and their axes."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    columns = columns or num_panels
    engine = figure.get_layout_engine()
    if engine is not None and num_panels > columns:
        engine.set(h_pad=0.14)  # type: ignore[call-arg]
    grid = figure.subplots(-(-num_panels // columns), columns, squeeze=False)
    axes = [axes for row in grid for axes in row]
    for unused in axes[num_panels:]:
        unused.set_axis_off()
    return figure, axes[:num_panels]


def add_legend_above(axes: Axes, handles: list[Any], labels: list[str]) -> None:
    """Add a legend above the axes, in as many columns as fit; none for a single line."""
    if len(handles) < 2:
        return
    # Paths and model specs with overrides differ at their ends, so the middle is cut out.
    shortened = [label if len(label) <= 38 else f"{label[:14]}…{label[-23:]}" for label in labels]
    columns = 2 if len(handles) == 4 or sum(map(len, shortened)) > 44 else len(handles)
    width_inches = axes.figure.bbox.width / axes.figure.dpi
    if columns == 2 and 2 * (_CHARACTER_INCHES * max(map(len, shortened)) + 0.35) > width_inches - 0.5:
        columns = 1
    axes.legend(
        handles, shortened, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2,
        handlelength=1.7, columnspacing=1.4, handletextpad=0.5, borderpad=0.1,
    )  # fmt: skip


def set_log_scale(axes: Axes, ticks: Sequence[float] = ()) -> None:
    """Make the y axis logarithmic, with ticks at these values where they are few."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(format_log_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    is_few = 1 < len(ticks) <= 8
    axes.yaxis.set_major_locator(FixedLocator(ticks) if is_few else make_log_locator(*axes.get_ylim()))


def make_log_locator(low: float, high: float) -> Locator:
    """Return the ticks of a logarithmic axis: powers of ten, with 2 and 5 between them below a ratio of 150.

    Below a ratio of 4, where those would leave a tick or none, the ticks are even steps of 1, 2 or 5.
    """
    ratio = high / low if low > 0 else math.inf
    if ratio < 4:
        return MaxNLocator(5, steps=(1, 2, 5, 10))
    return LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if ratio < 150 else LogLocator(numticks=7)


def format_log_tick(value: float, _: object = None) -> str:
    """Format a tick of a logarithmic axis: 0.001, 10, 1e-6."""
    return f"{value:g}" if 1e-4 < value < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
