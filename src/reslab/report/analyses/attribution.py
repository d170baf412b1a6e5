"""How the answers to `attribution` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_percent
from reslab.report.plots.images import ImageRow, decode_data_uri, overlay_heatmap, plot_image_grid

Result = Mapping[str, Any]
_ROUNDING_ERROR = 1e-4
_METHODS = (("grad_cam", "Grad-CAM"), ("integrated_gradients", "integrated gradients"), ("occlusion", "occlusion"))


def render_attribution(results: Sequence[Result]) -> RenderedResult:
    """The pictures, and beside each what speaks for the class by three methods, one network after the other."""
    return RenderedResult(
        "What in a picture speaks for its class",
        tuple(attribution_text(result) for result in results),
        tuple(_render_figure(result) for result in results),
        tuple(_render_table(result) for result in results),
    )


def attribution_text(result: Result) -> str:
    """How many of the pictures are called right, and how complete the integrated gradients are."""
    images = result["images"]
    num_correct = sum(image["label"] == image["predicted"] for image in images)
    max_residual = max(abs(image["completeness_error"]) for image in images)
    gap_text = f"at most {format_percent(max_residual, 1)}" if max_residual >= _ROUNDING_ERROR else "less than 0.01 %"
    return (
        f"{result['model']}: {num_correct} of {len(images)} pictures are called right. The integrated gradients add up "
        f"to the rise of the class's score, but for {gap_text} of it. Grad-CAM: {result['layer']}."
    )


def _render_figure(result: Result) -> RenderedFigure:
    rows = []
    for image in result["images"]:
        pixels = decode_data_uri(image["image"])
        heatmaps = [overlay_heatmap(pixels, image[key], smooth=key != "integrated_gradients") for key, _ in _METHODS]
        rows.append(ImageRow(_row_label(image), [pixels, *heatmaps]))
    alt_text = f"{result['model']}: pictures, and what in them speaks for the class (vermilion) or against it (blue)."
    titles = ["", *(name for _, name in _METHODS)]
    patch_size = result["patch_size"]
    caption = (
        f"Vermilion: for the class. Blue: against it. Occlusion covers {patch_size}×{patch_size} pixels at a time."
    )
    return RenderedFigure(plot_image_grid(rows, titles, 1.35), alt_text, f"Where {result['model']} looks", caption)


def _row_label(image: Result) -> str:
    text = f"{image['target_class']}, {format_percent(image['probability'], 0)}"
    return text if image["label"] == image["target_class"] else f"{text}\n(is {image['label']})"


def _render_table(result: Result) -> RenderedTable:
    rows = [
        [
            str(image["index"]),
            image["label"],
            image["predicted"],
            format_percent(image["probability"], 1),
            _center_text(image["grad_cam"]),
            _center_text(image["occlusion"]),
            format_percent(abs(image["completeness_error"]), 2),
        ]
        for image in result["images"]
    ]
    columns = ["picture", "class", "called", "probability", "Grad-CAM's centre", "occlusion's centre", "left over"]
    return RenderedTable(f"{result['model']}: the centres are in percent from the left and from the top", columns, rows)


def _center_text(values: Sequence[Sequence[float]]) -> str:
    """The centre of what speaks for the class, in percent of width and height."""
    positive = np.array(values, dtype=float).clip(min=0)
    if not positive.sum():
        return "–"
    rows, columns = (np.arange(size) + 0.5 for size in positive.shape)
    x = float((positive.sum(0) * columns).sum() / positive.sum() / positive.shape[1])
    y = float((positive.sum(1) * rows).sum() / positive.sum() / positive.shape[0])
    return f"{100 * x:.0f}, {100 * y:.0f}"
