"""Render the analyses of features: feature maps and kernels, linear probes, nearest neighbors, and similarity."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np

from reslab.report.analyses.result import (
    RenderedFigure,
    RenderedResult,
    RenderedTable,
    Result,
    line_styles,
    shared_names,
)
from reslab.report.format import format_int, format_number, format_percent, format_shape, format_split, pluralize
from reslab.report.images import decode_data_uri
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles
from reslab.report.plots.images import (
    ImageRow,
    SimilarityMatrix,
    feature_map_to_image,
    kernel_to_image,
    plot_image_grid,
    plot_similarity,
    signed_to_image,
)


def render_features(results: Sequence[Result]) -> RenderedResult:
    """Render the feature maps and kernels of each network, and how many of its channels are dead."""
    return RenderedResult(
        "Feature maps and kernels",
        tuple(features_text(result) for result in results),
        tuple(figure for result in results for figure in (_render_maps(result), _render_kernels(result))),
        tuple(_dead_channel_table(result) for result in results),
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


def _dead_channel_table(result: Result) -> RenderedTable:
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


def render_probes(results: Sequence[Result]) -> RenderedResult:
    """Render the score of a linear probe on each layer, for all networks."""
    scale, unit = (100, ", %") if results[0]["is_fraction"] else (1, "")
    metric = results[0]["metric"]
    profiles = [
        DepthProfile(
            style.label,
            [scale * probe["score"] for probe in result["probes"]],
            style.color_index,
            dashed=style.dashed,
            alpha=style.alpha,
        )
        for result, style in zip(results, line_styles(results), strict=True)
    ]
    baseline = scale * max(result["baseline_score"] for result in results)
    names = shared_names(results, lambda result: [str(probe["layer"]) for probe in result["probes"]])
    figure = plot_depth_profiles(
        profiles,
        log=False,
        xlabel="layer, from input to output",
        ylabel=f"probe {metric}{unit}",
        hline=baseline,
        names=names,
    )
    title = f"{metric[0].upper()}{metric[1:]}"
    alt_text = f"{title} of a linear probe on the features of each layer, from input to output."
    caption = "A linear model on globally averaged features. The thin line is the best constant prediction."
    return RenderedResult(
        "Linear probes",
        tuple(probes_text(result) for result in results),
        (RenderedFigure(figure, alt_text, f"Probe {metric}", caption),),
        tuple(_probe_table(result) for result in results),
    )


def probes_text(result: Result) -> str:
    """Return the score at the first, the best and the last layer, and where it rises most."""
    probe_results, metric = result["probes"], result["metric"]
    best = max(reversed(probe_results), key=lambda probe: probe["score"])
    first, last = probe_results[0], probe_results[-1]
    text = f"{result['model']}: a probe on {first['layer']} reaches {_score_text(result, first['score'])} {metric}"
    if len(probe_results) > 1:
        text += f", one on {last['layer']} {_score_text(result, last['score'])}"
        rises = [after["score"] - before["score"] for before, after in pairwise(probe_results)]
        step = max(range(len(rises)), key=lambda i: rises[i])
        if rises[step] > 0:
            rise = f"{100 * rises[step]:.1f} points" if result["is_fraction"] else format_number(rises[step], 3)
            text += f"; {probe_results[step + 1]['layer']} adds most ({rise})"
    if best["layer"] not in (first["layer"], last["layer"]):
        text += f"; the best is {best['layer']} with {_score_text(result, best['score'])}"
    return text + f". The network itself reaches {_score_text(result, result['model_score'])}."


def _score_text(result: Result, score: float) -> str:
    return format_percent(score, 1) if result["is_fraction"] else format_number(score, 3)


def _probe_table(result: Result) -> RenderedTable:
    rows = [
        [
            probe["layer"],
            str(probe["num_features"]),
            _score_text(result, probe["score"]),
            _score_text(result, probe["fit_score"]),
        ]
        for probe in result["probes"]
    ]
    samples_text = (
        f"fitted on {pluralize(result['num_fit_images'], 'image')}, evaluated on {result['num_images']} others"
    )
    columns = ["layer", "features", result["metric"], f"{result['metric']} on fitted images"]
    return RenderedTable(f"{result['model']}, {samples_text}", columns, rows)


def render_nearest(results: Sequence[Result]) -> RenderedResult:
    """Render some images with their nearest neighbors, and how often a neighbor is of the same class."""
    return RenderedResult(
        "Nearest neighbors in feature space",
        tuple(nearest_text(result) for result in results),
        tuple(_neighbor_figure(result) for result in results),
        (_neighbor_table(results),),
    )


def nearest_text(result: Result) -> str:
    """Return the fraction of neighbors of the same class, and the accuracy of a vote among them."""
    location = f"the {format_split(result['split'])} split" if result["split"] else "the other images"
    num_neighbors = len(result["queries"][0]["neighbors"])
    if result["same_class_fraction"] is None:
        mean = format_number(_mean_cosine(result), 3)
        return f"{result['model']}: the mean cosine to the nearest image in {location} is {mean}."
    return (
        f"{result['model']}: of the {pluralize(num_neighbors, 'nearest image')} in {location} "
        f"{format_percent(result['same_class_fraction'], 1)} are of the same class; a k-NN vote reaches "
        f"{format_percent(result['knn_accuracy'], 1)} accuracy on {pluralize(result['num_images'], 'image')} "
        f"(majority class: {format_percent(result['chance_accuracy'], 1)})."
    )


def _neighbor_figure(result: Result) -> RenderedFigure:
    rows, has_classes = [], result["same_class_fraction"] is not None
    for query in result["queries"]:
        neighbors = query["neighbors"]
        captions = [
            f"{neighbor['label']}{' ✕' if has_classes and neighbor['label'] != query['label'] else ''} "
            f"{neighbor['cosine']:.2f}"
            for neighbor in neighbors
        ]
        images = [
            decode_data_uri(query["image"]),
            None,
            *(decode_data_uri(neighbor["image"]) for neighbor in neighbors),
        ]
        rows.append(ImageRow("", images, [query["label"], "", *captions]))
    alt_text = f"{result['model']}: images, and beside each its nearest neighbors in the features of {result['layer']}."
    caption = "Below each: class and cosine similarity; ✕ where the class differs."
    caption = caption if has_classes else "Below each: target and cosine similarity."
    title = f"Nearest neighbors in {result['layer']} of {result['model']}"
    return RenderedFigure(plot_image_grid(rows, ["query", "", "nearest"], 0.92), alt_text, title, caption)


def _mean_cosine(result: Result) -> float:
    return float(sum(query["neighbors"][0]["cosine"] for query in result["queries"]) / len(result["queries"]))


def _neighbor_table(results: Sequence[Result]) -> RenderedTable:
    rows = [
        [
            result["model"],
            result["layer"],
            format_int(result["num_searched"]),
            format_percent(result["same_class_fraction"], 1),
            format_percent(result["knn_accuracy"], 1),
            format_number(_mean_cosine(result), 3),
        ]
        for result in results
    ]
    columns = ["network", "layer", "searched images", "same class", "k-NN accuracy", "mean cosine of the nearest"]
    return RenderedTable("Neighbors by the cosine similarity of features", columns, rows)


_MAX_TABLE_COLUMNS = 12


def render_similarity(results: Sequence[Result]) -> RenderedResult:
    """Render a matrix for each network with itself and for each pair of networks."""
    pairs = [pair for result in results for pair in result["pairs"]]
    figure = plot_similarity([_similarity_matrix(pair) for pair in pairs])
    alt_text = "Linear CKA between layers; the input is at the lower left."
    caption = (
        "From 0 (background: nothing in common) to 1 (full blue: equal up to rotation and scale). The input is at the "
        "lower left."
    )
    images_text = pluralize(results[0]["num_images"], "image")
    return RenderedResult(
        "Layer similarity (CKA)",
        tuple(text for pair in pairs for text in [similarity_text(pair)] if text),
        (RenderedFigure(figure, alt_text, f"Linear CKA on {images_text}", caption),),
        tuple(_similarity_table(pair) for pair in pairs),
    )


def similarity_text(pair: Result) -> str:
    """Return the mean CKA of adjacent layers of a network, or of the same depth in two networks, and its maximum."""
    values, rows, columns = pair["values"], pair["rows"], pair["columns"]
    if pair["first"] == pair["second"]:
        neighbor_values = [values[i][i + 1] for i in range(len(rows) - 1) if values[i][i + 1] is not None]
        if not neighbor_values or values[0][-1] is None:
            return ""
        return (
            f"{pair['first']}: mean CKA of adjacent layers {fmean(neighbor_values):.2f}, of {rows[0]} and {rows[-1]} "
            f"{values[0][-1]:.2f}."
        )
    entries = [
        (value, rows[i], columns[j]) for i, row in enumerate(values) for j, value in enumerate(row) if value is not None
    ]
    if not entries:
        return ""
    highest, row, column = max(entries)
    diagonal = [values[i][i] for i in range(min(len(rows), len(columns))) if values[i][i] is not None]
    return (
        f"{pair['first']} and {pair['second']}: mean CKA at the same depth {fmean(diagonal):.2f}; highest between "
        f"{row} and {column}, {highest:.2f}."
    )


def _similarity_matrix(pair: Result) -> SimilarityMatrix:
    return SimilarityMatrix(
        row_label=pair["first"],
        column_label=pair["second"],
        rows=pair["rows"],
        columns=pair["columns"],
        values=pair["values"],
    )


def _similarity_table(pair: Result) -> RenderedTable:
    """Return the matrix as a table, of evenly spaced layers where there are more than twelve."""
    rows, columns = _evenly_spaced(len(pair["rows"])), _evenly_spaced(len(pair["columns"]))
    body = [[pair["rows"][i], *(_format_similarity(pair["values"][i][j]) for j in columns)] for i in rows]
    headers = [pair["first"], *(pair["columns"][j] for j in columns)]
    return RenderedTable(f"{pair['first']} (down) and {pair['second']} (across)", headers, body)


def _format_similarity(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _evenly_spaced(n: int) -> list[int]:
    if n <= _MAX_TABLE_COLUMNS:
        return list(range(n))
    return sorted({round(i * (n - 1) / (_MAX_TABLE_COLUMNS - 1)) for i in range(_MAX_TABLE_COLUMNS)})
