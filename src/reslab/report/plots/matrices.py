"""How alike layers are: one square a pair, deeper where they are more alike.

The confusion matrix of many classes, one small square a pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reslab.report.plots.style import INK, MUTED, VERMILION, empty_panel, styled

MOST_NAMED = 45
RIGHT_BLUE = "#2387c8"  # between the palette's blues for light and for dark paper


def matrix_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """confusion[true][predicted] as squares: what is right in blue, what is wrong in vermilion, deeper where more.

    A right square is as deep as the class's recall; a wrong one as the root of its share of the largest wrong share.
    """
    with styled():
        figure, axes = empty_panel(7.6, 7.6)
        axes.imshow(_colours(np.asarray(confusion, dtype=float)), interpolation="none", origin="upper")
        axes.grid(False)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(classes) <= MOST_NAMED:
            _name_axes(axes, classes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        return figure


def _name_axes(axes: object, classes: Sequence[str]) -> None:
    size = max(5.5, min(9.0, 260 / len(classes)))
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)  # type: ignore[attr-defined]
    axes.set_yticks(range(len(names)), names, fontsize=size)  # type: ignore[attr-defined]


def _colours(confusion: np.ndarray) -> np.ndarray:
    """RGBA (K, K, 4): the depth is the opacity, so that the picture lies on light and on dark paper."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(confusion), dtype=bool)
    wrong = np.where(diagonal, 0, share)
    wrong = np.sqrt(wrong / max(wrong.max(), 1e-12))
    colours = np.empty((*confusion.shape, 4))
    colours[:] = (*to_rgb(VERMILION), 0)
    colours[diagonal] = (*to_rgb(RIGHT_BLUE), 0)
    colours[..., 3] = np.where(
        diagonal, np.where(share > 0, 0.25 + 0.75 * share, 0), np.where(wrong > 0, 0.12 + 0.88 * wrong, 0)
    )
    return colours


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
