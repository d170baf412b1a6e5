"""Matrices as colored cells: the confusion matrix of many classes, and the similarity of layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reslab.report.colors import INK, MUTED, WRONG
from reslab.report.plots.style import MIN_FONT_POINTS, make_figure, plot_style

CELL_BLUE = "#2387c8"  # between the blues of light and dark mode, as images do not take CSS variables
_MAX_LABELED_LAYERS, _MAX_ANNOTATED_LAYERS = 24, 12
_MAX_COLUMNS = 3


def plot_confusion_matrix(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], *, with_names: bool = True
) -> Figure:
    """Plot confusion[true][predicted]: correct cells blue, wrong ones red; axes with class names or numbers.

    The opacity of a correct cell is the class's recall; that of a wrong one is the root of its rate over the highest
    wrong rate, so that rare confusions stay visible.
    """
    with plot_style():
        figure, axes = make_figure(7.6, 7.6)
        axes.imshow(_confusion_colors(np.asarray(confusion, dtype=float)), interpolation="none", origin="upper")
        axes.grid(False)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(True)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if with_names:
            _label_class_axes(axes, classes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        return figure


def _label_class_axes(axes: Axes, classes: Sequence[str]) -> None:
    font_size = max(6.0, min(MIN_FONT_POINTS, 270 / len(classes)))
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=font_size)
    axes.set_yticks(range(len(names)), names, fontsize=font_size)


def _confusion_colors(confusion: np.ndarray) -> np.ndarray:
    """Return RGBA (K, K, 4), with the value in the opacity, so that the plot suits light and dark mode."""
    fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(confusion), dtype=bool)
    wrong_alpha = np.where(diagonal, 0, fractions)
    wrong_alpha = np.sqrt(wrong_alpha / max(wrong_alpha.max(), 1e-12))
    colors = np.empty((*confusion.shape, 4))
    colors[:] = (*to_rgb(WRONG), 0)
    colors[diagonal] = (*to_rgb(CELL_BLUE), 0)
    colors[..., 3] = np.where(
        diagonal,
        np.where(fractions > 0, 0.25 + 0.75 * fractions, 0),
        np.where(wrong_alpha > 0, 0.12 + 0.88 * wrong_alpha, 0),
    )
    return colors


@dataclass(frozen=True)
class SimilarityMatrix:
    """The similarity `values[i][j]` from 0 to 1 of layer i of one network and j of another; None where undefined."""

    row_label: str
    column_label: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def plot_similarity(panels: Sequence[SimilarityMatrix]) -> Figure:
    """Plot a panel for each pair of networks, three in a row; small ones have the values in their cells."""
    with plot_style():
        columns = min(len(panels), _MAX_COLUMNS)
        rows = math.ceil(len(panels) / columns)
        width = 4.9 if columns == 1 else 10.4
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
    font_size = max(6.0, min(MIN_FONT_POINTS, 160 / max(len(panel.rows), len(panel.columns)) / num_columns**0.3))
    if max(len(panel.rows), len(panel.columns)) <= _MAX_LABELED_LAYERS:
        axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=90, fontsize=font_size)
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=font_size)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    if max(values.shape) <= _MAX_ANNOTATED_LAYERS:
        for (j, i), value in np.ndenumerate(values):
            text = "–" if math.isnan(value) else f"{value:.2f}".removeprefix("0")
            axes.text(i, j, text, ha="center", va="center", fontsize=7.0, color=MUTED if value < 0.3 else INK)
