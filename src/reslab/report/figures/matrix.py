"""The confusion matrix of many classes, one small square a pair."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reslab.report.plots.style import VERMILION, empty_panel, styled

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
