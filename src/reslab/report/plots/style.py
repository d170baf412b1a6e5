"""The look of every figure: one palette (Okabe and Ito's, safe for colour-blind eyes), thin lines, few words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2126", "#5b6570", "#e2e5e9"
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#a3568b"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE)

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
    """The house style, and nothing of the user's own settings, for as long as the block lasts."""
    with matplotlib.style.context(["default", _RC_PARAMS]):
        yield


def make_figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    """A figure with one set of axes, laid out to hold its labels."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    return figure, figure.add_subplot()


def add_legend_above(axes: Axes, handles: list[Any], labels: list[str]) -> None:
    """The names of the lines in a row above the axes, or in columns that fit; none for a single line."""
    if len(handles) < 2:
        return
    # Paths and networks with axes differ at their ends.
    shortened = [label if len(label) <= 38 else f"{label[:14]}…{label[-23:]}" for label in labels]
    columns = 2 if len(handles) == 4 or sum(map(len, shortened)) > 44 else len(handles)
    width_inches = axes.figure.bbox.width / axes.figure.dpi
    if columns == 2 and 2 * (_CHARACTER_INCHES * max(map(len, shortened)) + 0.35) > width_inches - 0.5:
        columns = 1
    axes.legend(
        handles, shortened, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2,
        handlelength=1.7, columnspacing=1.4, handletextpad=0.5, borderpad=0.1,
    )  # fmt: skip
