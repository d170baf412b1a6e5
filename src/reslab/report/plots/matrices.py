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

from reslab.report.plots.style import INK, MUTED, VERMILION, make_figure, plot_style

MAX_LABELED_CLASSES = 45
CELL_BLUE = "#2387c8"  # between the palette's blues for light and for dark paper


def plot_confusion_matrix(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """confusion[true][predicted] as squares: what is right in blue, what is wrong in vermilion, deeper where more.

    A right square is as deep as the class's recall; a wrong one as the root of its share of the largest wrong share.
    """
    with plot_style():
        figure, axes = make_figure(7.6, 7.6)
        axes.imshow(_confusion_colors(np.asarray(confusion, dtype=float)), interpolation="none", origin="upper")
        axes.grid(False)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(classes) <= MAX_LABELED_CLASSES:
            _label_class_axes(axes, classes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        return figure


def _label_class_axes(axes: object, classes: Sequence[str]) -> None:
    font_size = max(5.5, min(9.0, 260 / len(classes)))
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=font_size)  # type: ignore[attr-defined]
    axes.set_yticks(range(len(names)), names, fontsize=font_size)  # type: ignore[attr-defined]


def _confusion_colors(confusion: np.ndarray) -> np.ndarray:
    """RGBA (K, K, 4): the depth is the opacity, so that the picture lies on light and on dark paper."""
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(confusion), dtype=bool)
    wrong_alpha = np.where(diagonal, 0, fractions)
    wrong_alpha = np.sqrt(wrong_alpha / max(wrong_alpha.max(), 1e-12))
    colors = np.empty((*confusion.shape, 4))
    colors[:] = (*to_rgb(VERMILION), 0)
    colors[diagonal] = (*to_rgb(CELL_BLUE), 0)
    colors[..., 3] = np.where(
        diagonal,
        np.where(fractions > 0, 0.25 + 0.75 * fractions, 0),
        np.where(wrong_alpha > 0, 0.12 + 0.88 * wrong_alpha, 0),
    )
    return colors


_MAX_LABELED_LAYERS, _MAX_ANNOTATED_LAYERS = 24, 12
_MAX_COLUMNS = 3


@dataclass(frozen=True)
class SimilarityMatrix:
    """`values[i][j]` from 0 to 1 of row i and column j, None where there is none."""

    row_label: str
    column_label: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def plot_similarity(panels: Sequence[SimilarityMatrix]) -> Figure:
    """Each pair of networks on a panel of its own, three abreast; the numbers stand in the squares of small ones."""
    with plot_style():
        columns = min(len(panels), _MAX_COLUMNS)
        rows = math.ceil(len(panels) / columns)
        width = 5.2 if columns == 1 else 10.4
        figure = Figure(figsize=(width, rows * (width / columns + 0.15)), layout="constrained")
        for index, panel in enumerate(panels):
            _draw_similarity(figure.add_subplot(rows, columns, index + 1), panel, columns)
        return figure


def _draw_similarity(axes: Axes, panel: SimilarityMatrix, num_columns: int) -> None:
    values = np.array([[math.nan if v is None else v for v in row] for row in panel.values], dtype=float)
    colors = np.empty((*values.shape, 4))
    colors[:] = (*to_rgb(CELL_BLUE), 0)
    colors[..., 3] = np.nan_to_num(values).clip(0, 1) ** 1.5
    axes.imshow(colors, interpolation="none", origin="lower", aspect="auto")
    axes.grid(False)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(True)
    axes.set_xlabel(panel.column_label)
    axes.set_ylabel(panel.row_label)
    font_size = max(5.0, min(8.0, 150 / max(len(panel.rows), len(panel.columns)) / num_columns**0.3))
    if max(len(panel.rows), len(panel.columns)) <= _MAX_LABELED_LAYERS:
        axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=90, fontsize=font_size)
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=font_size)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    if max(values.shape) <= _MAX_ANNOTATED_LAYERS:
        for (j, i), value in np.ndenumerate(values):
            text = "–" if math.isnan(value) else f"{value:.2f}".removeprefix("0")
            axes.text(i, j, text, ha="center", va="center", fontsize=6.5, color=MUTED if value < 0.3 else INK)
