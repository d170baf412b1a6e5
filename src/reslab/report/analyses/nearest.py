"""How the answers to `nearest` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_int, format_number, format_percent, pluralize
from reslab.report.plots.images import ImageRow, decode_data_uri, plot_image_grid

Result = Mapping[str, Any]


def render_nearest(results: Sequence[Result]) -> RenderedResult:
    """Some pictures with their neighbours, and how often a neighbour is of the same class."""
    return RenderedResult(
        "Pictures that the network takes for alike",
        tuple(nearest_text(result) for result in results),
        tuple(_render_figure(result) for result in results),
        (_render_table(results),),
    )


def nearest_text(result: Result) -> str:
    """The share of neighbours of the same class, and what it is by chance."""
    location = f"the {result['split']} split" if result["split"] else "the other pictures"
    num_neighbors = len(result["queries"][0]["neighbors"])
    return (
        f"{result['model']}: of the {pluralize(num_neighbors, 'nearest picture')} in {location} "
        f"{format_percent(result['same_class_fraction'], 1)} are of the same class; a vote among them is right for "
        f"{format_percent(result['knn_accuracy'], 1)} of {pluralize(result['num_images'], 'picture')} "
        f"(always the commonest class: {format_percent(result['chance_accuracy'], 1)})."
    )


def _render_figure(result: Result) -> RenderedFigure:
    rows = []
    for query in result["queries"]:
        neighbors = query["neighbors"]
        captions = [
            f"{neighbor['label']}{'' if neighbor['label'] == query['label'] else ' ✕'} {neighbor['cosine']:.2f}"
            for neighbor in neighbors
        ]
        images = [
            decode_data_uri(query["image"]),
            None,
            *(decode_data_uri(neighbor["image"]) for neighbor in neighbors),
        ]
        rows.append(ImageRow("", images, [query["label"], "", *captions]))
    alt_text = f"{result['model']}: pictures, and beside each those nearest to it in the features of {result['layer']}."
    caption = "Below each its class and the cosine; ✕ where the class is another."
    title = f"Nearest in {result['layer']} of {result['model']}"
    return RenderedFigure(plot_image_grid(rows, ["asked", "", "nearest"], 0.92), alt_text, title, caption)


def _render_table(results: Sequence[Result]) -> RenderedTable:
    rows = [
        [
            result["model"],
            result["layer"],
            format_int(result["num_searched"]),
            format_percent(result["same_class_fraction"], 1),
            format_percent(result["knn_accuracy"], 1),
            format_number(
                sum(query["neighbors"][0]["cosine"] for query in result["queries"]) / len(result["queries"]), 3
            ),
        ]
        for result in results
    ]
    columns = ["network", "layer", "searched", "same class", "vote right", "nearest cosine"]
    return RenderedTable("Neighbours by the cosine of features", columns, rows)
