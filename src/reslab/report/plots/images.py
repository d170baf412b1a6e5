"""Grids of images, and arrays as images: heatmaps, kernels, feature maps, and matrices as colored cells.

Matrices are the confusion matrix of many classes, and the similarity of layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from reslab.report.colors import INK, MUTED, NEGATIVE, POSITIVE, WRONG
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


_MIN_IMAGE_SIDE = 120
_CELL_INCHES = 0.9


@dataclass(frozen=True)
class ImageRow:
    """A row of uint8 images (H, W, 3), None for an empty cell, with its name on the left and captions below."""

    name: str
    images: Sequence[np.ndarray | None]
    captions: Sequence[str] = ()


def plot_image_grid(rows: Sequence[ImageRow], titles: Sequence[str] = (), cell_inches: float = _CELL_INCHES) -> Figure:
    """Plot rows of images, under one title for each column."""
    with plot_style():
        columns = max(len(row.images) for row in rows)
        has_captions = any(any(row.captions) for row in rows)
        max_label_length = max(len(line) for row in rows for line in (row.name or " ").split("\n"))
        margin = 0.3 + 0.072 * max_label_length
        indent = 0.08
        row_height = cell_inches * (1.27 if has_captions else 1.1)  # inches, with room for the captions
        top_margin = 0.34 if titles else 0.08
        total_width, total_height = margin + columns * cell_inches * 1.08, top_margin + len(rows) * row_height + 0.08
        figure = Figure(figsize=(max(total_width, 3.0), total_height))
        for j, row in enumerate(rows):
            bottom = total_height - top_margin - j * row_height - cell_inches
            figure.text(
                indent / total_width,
                (bottom + cell_inches / 2) / total_height,
                row.name,
                fontsize=MIN_FONT_POINTS,
                color=INK,
                va="center",
            )
            for i, pixels in enumerate(row.images):
                left = margin + i * cell_inches * 1.08
                axes = figure.add_axes(
                    (left / total_width, bottom / total_height, cell_inches / total_width, cell_inches / total_height)
                )
                _draw_image(axes, pixels, row.captions[i] if i < len(row.captions) else "")
                if j == 0 and i < len(titles) and titles[i]:
                    axes.set_title(titles[i], fontsize=MIN_FONT_POINTS, color=MUTED, loc="left", pad=4)
        return figure


def _draw_image(axes: Axes, pixels: np.ndarray | None, caption: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if pixels is None:
        axes.set_axis_off()
        return
    axes.imshow(enlarge(pixels), interpolation="none")
    if caption:
        axes.set_xlabel(caption, fontsize=MIN_FONT_POINTS, color=MUTED, labelpad=2)


def enlarge(pixels: np.ndarray, side: int = _MIN_IMAGE_SIDE) -> np.ndarray:
    """Repeat the pixels of a tiny image, so that no viewer blurs them."""
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def overlay_heatmap(pixels: np.ndarray, values: Sequence[Sequence[float]], smooth: bool = True) -> np.ndarray:
    """Return the image in pale gray under positive values in green and negative ones in magenta."""
    side = max(_MIN_IMAGE_SIDE, *pixels.shape[:2])
    gray = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.NEAREST), dtype=float)
    base = (0.7 + 0.3 * gray / 255)[..., None].repeat(3, axis=2)
    scores = np.array(values, dtype=np.float32)
    max_score = max(float(np.quantile(np.abs(scores), 0.995)), 1e-12)
    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    heatmap = np.asarray(Image.fromarray(scores / max_score).resize((side, side), resampling))
    alpha = (np.abs(heatmap).clip(0, 1) ** 0.7 * 0.92)[..., None]
    color = np.where(heatmap[..., None] > 0, to_rgb(POSITIVE), to_rgb(NEGATIVE))
    return np.asarray((base * (1 - alpha) + color * alpha) * 255).round().astype(np.uint8)


def signed_to_image(values: Sequence[Sequence[float]], max_value: float) -> np.ndarray:
    """Return values as colors on white: green above zero, magenta below, saturated at `max_value`."""
    scaled = np.array(values, dtype=float) / max(max_value, 1e-12)
    alpha = np.abs(scaled).clip(0, 1)[..., None]
    color = np.where(scaled[..., None] > 0, to_rgb(POSITIVE), to_rgb(NEGATIVE))
    return np.asarray(((1 - alpha) + color * alpha) * 255).round().astype(np.uint8)


def kernel_to_image(channels: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Return a kernel of three input channels as an RGB image, gray at zero."""
    kernel = np.array(channels, dtype=float).transpose(1, 2, 0)
    return np.asarray(127.5 + 127.5 * kernel / max(float(np.abs(kernel).max()), 1e-12)).round().astype(np.uint8)


def feature_map_to_image(values: Sequence[Sequence[float]]) -> np.ndarray:
    """Return a feature map in the viridis colormap, from its minimum to its maximum; a constant one is dark."""
    feature_map = np.array(values, dtype=float)
    value_range = float(feature_map.max() - feature_map.min())
    return (
        np.asarray(colormaps["viridis"]((feature_map - feature_map.min()) / (value_range or 1.0))[..., :3] * 255)
        .round()
        .astype(np.uint8)
    )


def draw_outline(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Return the pixels (H, W[, C]) with the outline of a box, given as x1, y1, x2, y2 in fractions of the image."""
    outlined = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else np.array(pixels[..., :3])
    height, width = outlined.shape[:2]
    stroke = max(1, min(height, width) // 60)
    x1, y1, x2, y2 = (round(side * size) for side, size in zip(box, (width, height, width, height), strict=True))
    x1, x2 = sorted((min(max(x1, 0), width - stroke), min(max(x2 - stroke, 0), width - stroke)))
    y1, y2 = sorted((min(max(y1, 0), height - stroke), min(max(y2 - stroke, 0), height - stroke)))
    color = np.round(255 * np.array(to_rgb(NEGATIVE))).astype(outlined.dtype)
    for y in (y1, y2):
        outlined[y : y + stroke, x1 : x2 + stroke] = color
    for x in (x1, x2):
        outlined[y1 : y2 + stroke, x : x + stroke] = color
    return outlined
