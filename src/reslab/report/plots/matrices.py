"""How alike layers are: one square a pair, deeper where they are more alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reslab.report.figures.matrix import RIGHT_BLUE
from reslab.report.plots.style import INK, MUTED, styled

_MOST_NAMED, _MOST_NUMBERED = 24, 12
_MOST_IN_A_ROW = 3


@dataclass(frozen=True)
class Squares:
    """`values[i][j]` from 0 to 1 of row i and column j, None where there is none."""

    down: str
    across: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def similarity_figure(panels: Sequence[Squares]) -> Figure:
    """Each pair of networks on a panel of its own, three abreast; the numbers stand in the squares of small ones."""
    with styled():
        columns = min(len(panels), _MOST_IN_A_ROW)
        rows = math.ceil(len(panels) / columns)
        width = 5.2 if columns == 1 else 10.4
        figure = Figure(figsize=(width, rows * (width / columns + 0.15)), layout="constrained")
        for place, panel in enumerate(panels):
            _panel(figure.add_subplot(rows, columns, place + 1), panel, columns)
        return figure


def _panel(axes: Axes, panel: Squares, abreast: int) -> None:
    values = np.array([[math.nan if v is None else v for v in row] for row in panel.values], dtype=float)
    colours = np.empty((*values.shape, 4))
    colours[:] = (*to_rgb(RIGHT_BLUE), 0)
    colours[..., 3] = np.nan_to_num(values).clip(0, 1) ** 1.5
    axes.imshow(colours, interpolation="none", origin="lower", aspect="auto")
    axes.grid(False)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(True)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.down)
    size = max(5.0, min(8.0, 150 / max(len(panel.rows), len(panel.columns)) / abreast**0.3))
    if max(len(panel.rows), len(panel.columns)) <= _MOST_NAMED:
        axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=90, fontsize=size)
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=size)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    if max(values.shape) <= _MOST_NUMBERED:
        for (j, i), value in np.ndenumerate(values):
            text = "–" if math.isnan(value) else f"{value:.2f}".removeprefix("0")
            axes.text(i, j, text, ha="center", va="center", fontsize=6.5, color=MUTED if value < 0.3 else INK)
