"""Render `features`: feature maps, kernels, and dead channels."""

from collections.abc import Sequence

import numpy as np

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_number, format_percent, format_shape, pluralize
from reslab.report.plots.images import (
    ImageRow,
    feature_map_to_image,
    kernel_to_image,
    plot_image_grid,
    signed_to_image,
)
from reslab.report.thumbnails import decode_data_uri


def render_features(results: Sequence[Result]) -> RenderedResult:
    """Render the feature maps and kernels of each network, and how many of its channels are dead."""
    return RenderedResult(
        "Feature maps and kernels",
        tuple(features_text(result) for result in results),
        tuple(figure for result in results for figure in (_render_maps(result), _render_kernels(result))),
        tuple(_render_table(result) for result in results),
    )


def features_text(result: Result) -> str:
    """Return how many channels are zero on every image, and where."""
    layers = result["layers"]
    num_channels, num_silent = (sum(layer[key] for layer in layers) for key in ("num_channels", "num_dead"))
    silent_layers = ", ".join(f"{layer['num_dead']} of {layer['layer']}" for layer in layers if layer["num_dead"])
    images_text = pluralize(result["num_images"], "image")
    silent_text = f"{num_silent} of {num_channels} channels are dead (zero on all {images_text})" + (
        f": {silent_layers}" if silent_layers else ""
    )
    zeros_text = ", ".join(f"{format_percent(layer['zero_fraction'], 0)} in {layer['layer']}" for layer in layers)
    return f"{result['model']}: {silent_text}. Fraction of zeros: {zeros_text}."


def _render_maps(result: Result) -> RenderedFigure:
    image = decode_data_uri(result["image"])
    rows = []
    for index, layer in enumerate(result["layers"]):
        name = f"{layer['layer']}\n{format_shape(layer['shape'])}"
        captions = ["", *(str(channel) for channel in layer["channels"])]
        first_image = image if index == 0 else None
        rows.append(
            ImageRow(name, [first_image, *(feature_map_to_image(values) for values in layer["maps"])], captions)
        )
    alt_text = f"{result['model']}: feature maps of each layer for one image ({result['label']})."
    caption = "Channels of highest energy, each from its minimum (dark) to its maximum (bright), with their numbers."
    return RenderedFigure(
        plot_image_grid(rows, cell_inches=0.8), alt_text, f"Feature maps of {result['model']}", caption
    )


def _render_kernels(result: Result) -> RenderedFigure:
    kernels = result["kernels"]
    max_weight = max(
        (abs(value) for kernel in kernels for part in kernel["values"] for row in part for value in row), default=1.0
    )
    images: list[np.ndarray | None] = [
        kernel_to_image(kernel["values"])
        if len(kernel["values"]) == 3
        else signed_to_image(kernel["values"][0], max_weight)
        for kernel in kernels
    ]
    captions = [f"{kernel['channel']}: {format_number(kernel['norm'], 2)}" for kernel in kernels]
    rows = [ImageRow("", images[i : i + 12], captions[i : i + 12]) for i in range(0, len(images), 12)]
    is_color = len(kernels) > 0 and len(kernels[0]["values"]) == 3
    legend_text = "Gray is zero." if is_color else "Green: positive. Magenta: negative."
    alt_text = f"{result['model']}: kernels of {result['first_conv']}, largest norm first."
    title = f"Kernels of {result['first_conv']}, {result['model']}"
    return RenderedFigure(
        plot_image_grid(rows, cell_inches=0.8), alt_text, title, f"{legend_text} Below each: channel and norm."
    )


def _render_table(result: Result) -> RenderedTable:
    rows = [
        [
            layer["layer"],
            format_shape(layer["shape"]),
            str(layer["num_dead"]),
            format_percent(layer["zero_fraction"], 1),
            format_number(layer["mean"], 3),
            format_number(layer["std"], 3),
        ]
        for layer in result["layers"]
    ]
    columns = ["layer", "output", "dead channels", "zeros", "mean", "std"]
    return RenderedTable(f"{result['model']}, over {pluralize(result['num_images'], 'image')}", columns, rows)
