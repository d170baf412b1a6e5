"""Render `attribution`: the image regions that support or oppose the class."""

from collections.abc import Sequence

import numpy as np

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_percent
from reslab.report.plots.images import ImageRow, overlay_heatmap, plot_image_grid
from reslab.report.thumbnails import decode_data_uri

_ROUNDING_ERROR = 1e-4
_METHODS = (("grad_cam", "Grad-CAM"), ("integrated_gradients", "integrated gradients"), ("occlusion", "occlusion"))


def render_attribution(results: Sequence[Result]) -> RenderedResult:
    """Render the images beside their attributions by three methods, one network after the other."""
    return RenderedResult(
        "Attribution",
        tuple(attribution_text(result) for result in results),
        tuple(_render_figure(result) for result in results),
        tuple(_render_table(result) for result in results),
    )


def attribution_text(result: Result) -> str:
    """Return how many images are classified correctly, and how complete the integrated gradients are."""
    images = result["images"]
    num_correct = sum(image["label"] == image["predicted"] for image in images)
    max_error = max(abs(image["completeness_error"]) for image in images)
    error_text = f"at most {format_percent(max_error, 1)}" if max_error >= _ROUNDING_ERROR else "less than 0.01 %"
    warning = " Above 100 % they explain nothing: use more steps." if max_error > 1 else ""
    return (
        f"{result['model']}: {num_correct} of {len(images)} images are classified correctly. The completeness error "
        f"of the integrated gradients is {error_text} of the rise in the class score.{warning} Grad-CAM layer: "
        f"{result['layer']}."
    )


def _render_figure(result: Result) -> RenderedFigure:
    rows = []
    for image in result["images"]:
        pixels = decode_data_uri(image["image"])
        heatmaps = [overlay_heatmap(pixels, image[key], smooth=key != "integrated_gradients") for key, _ in _METHODS]
        rows.append(ImageRow(_row_label(image), [pixels, *heatmaps]))
    alt_text = f"{result['model']}: images, with the regions that support the class (green) or oppose it (magenta)."
    titles = ["", *(name for _, name in _METHODS)]
    patch_size = result["patch_size"]
    caption = (
        f"Green: supports the class. Magenta: opposes it. Occlusion covers {patch_size}×{patch_size} pixels at a time."
    )
    return RenderedFigure(plot_image_grid(rows, titles, 1.35), alt_text, f"Attributions of {result['model']}", caption)


def _row_label(image: Result) -> str:
    text = f"{image['target_class']}, {format_percent(image['probability'], 0)}"
    return text if image["label"] == image["target_class"] else f"{text}\n(true: {image['label']})"


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
    columns = [
        "image",
        "class",
        "predicted",
        "probability",
        "Grad-CAM center",
        "occlusion center",
        "completeness error",
    ]
    return RenderedTable(
        f"{result['model']}: centers of the positive attribution, in percent from the left and from the top",
        columns,
        rows,
    )


def _center_text(values: Sequence[Sequence[float]]) -> str:
    """Return the center of the positive values, in percent of width and height."""
    positive = np.array(values, dtype=float).clip(min=0)
    if not positive.sum():
        return "–"
    rows, columns = (np.arange(size) + 0.5 for size in positive.shape)
    x = float((positive.sum(0) * columns).sum() / positive.sum() / positive.shape[1])
    y = float((positive.sum(1) * rows).sum() / positive.sum() / positive.shape[0])
    return f"{100 * x:.0f}, {100 * y:.0f}"
