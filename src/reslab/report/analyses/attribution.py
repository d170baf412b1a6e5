"""Render `attribution`: the image regions that support or oppose the class."""

from collections.abc import Sequence

import numpy as np

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_percent
from reslab.report.images import decode_data_uri
from reslab.report.plots.images import ImageRow, draw_outline, overlay_heatmap, plot_image_grid

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
    layer_text = f"Grad-CAM layer: {result['layer']}."
    if any(image["box"] for image in images):
        return f"{result['model']}: Grad-CAM of the box with the highest score in each image. {layer_text}"
    num_correct = sum(image["label"] == image["predicted"] for image in images)
    correct_text = f"{num_correct} of {len(images)} images are classified correctly. " if result["has_classes"] else ""
    max_error = max(abs(image["completeness_error"]) for image in images)
    error_text = f"at most {format_percent(max_error, 1)}" if max_error >= _ROUNDING_ERROR else "less than 0.01 %"
    warning = " Above 100 % they explain nothing: use more steps." if max_error > 1 else ""
    return (
        f"{result['model']}: {correct_text}The completeness error of the integrated gradients is {error_text} of the "
        f"rise in the class score.{warning} {layer_text}"
    )


def _methods(result: Result) -> list[tuple[str, str]]:
    return [(key, name) for key, name in _METHODS if result["images"][0][key] is not None]


def _render_figure(result: Result) -> RenderedFigure:
    rows, methods = [], _methods(result)
    for image in result["images"]:
        pixels = decode_data_uri(image["image"])
        heatmaps = [overlay_heatmap(pixels, image[key], smooth=key != "integrated_gradients") for key, _ in methods]
        shown = pixels if image["box"] is None else draw_outline(pixels, image["box"])
        rows.append(ImageRow(_row_label(image, result["has_classes"]), [shown, *heatmaps]))
    alt_text = f"{result['model']}: images, with the regions that support the class (green) or oppose it (magenta)."
    titles = ["", *(name for _, name in methods)]
    patch_size = result["patch_size"]
    caption = "Green: supports the class. Magenta: opposes it."
    if patch_size:
        caption += f" Occlusion covers {patch_size}×{patch_size} pixels at a time."
    return RenderedFigure(plot_image_grid(rows, titles, 1.35), alt_text, f"Attributions of {result['model']}", caption)


def _row_label(image: Result, has_classes: bool) -> str:
    value = image["predicted"] if image["probability"] is None else format_percent(image["probability"], 0)
    text = f"{image['target_class']}, {value}"
    return f"{text}\n(true: {image['label']})" if has_classes and image["label"] != image["target_class"] else text


def _render_table(result: Result) -> RenderedTable:
    keys = [key for key, _ in _methods(result)]
    columns = ["image", "true", "predicted", "explained", "probability", "Grad-CAM center"]
    columns += ["occlusion center", "completeness error"] if "occlusion" in keys else []
    rows = [_table_row(image, keys) for image in result["images"]]
    return RenderedTable(
        f"{result['model']}: centers of the positive attribution, in percent from the left and from the top",
        columns,
        rows,
    )


def _table_row(image: Result, keys: Sequence[str]) -> list[str]:
    row = [
        str(image["index"]),
        image["label"],
        image["predicted"],
        image["target_class"],
        format_percent(image["probability"], 1),
        _center_text(image["grad_cam"]),
    ]
    if "occlusion" not in keys:
        return row
    return [*row, _center_text(image["occlusion"]), format_percent(abs(image["completeness_error"]), 2)]


def _center_text(values: Sequence[Sequence[float]]) -> str:
    """Return the center of the positive values, in percent of width and height."""
    positive = np.array(values, dtype=float).clip(min=0)
    if not positive.sum():
        return "–"
    rows, columns = (np.arange(size) + 0.5 for size in positive.shape)
    x = float((positive.sum(0) * columns).sum() / positive.sum() / positive.shape[1])
    y = float((positive.sum(1) * rows).sum() / positive.sum() / positive.shape[0])
    return f"{100 * x:.0f}, {100 * y:.0f}"
