"""Render `nearest`: nearest neighbors in feature space."""

from collections.abc import Sequence

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_int, format_number, format_percent, format_split, pluralize
from reslab.report.plots.images import ImageRow, plot_image_grid
from reslab.report.thumbnails import decode_data_uri


def render_nearest(results: Sequence[Result]) -> RenderedResult:
    """Render some images with their nearest neighbors, and how often a neighbor is of the same class."""
    return RenderedResult(
        "Nearest neighbors in feature space",
        tuple(nearest_text(result) for result in results),
        tuple(_render_figure(result) for result in results),
        (_render_table(results),),
    )


def nearest_text(result: Result) -> str:
    """Return the fraction of neighbors of the same class, and the accuracy of a vote among them."""
    location = f"the {format_split(result['split'])} split" if result["split"] else "the other images"
    num_neighbors = len(result["queries"][0]["neighbors"])
    return (
        f"{result['model']}: of the {pluralize(num_neighbors, 'nearest image')} in {location} "
        f"{format_percent(result['same_class_fraction'], 1)} are of the same class; a k-NN vote reaches "
        f"{format_percent(result['knn_accuracy'], 1)} accuracy on {pluralize(result['num_images'], 'image')} "
        f"(majority class: {format_percent(result['chance_accuracy'], 1)})."
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
    alt_text = f"{result['model']}: images, and beside each its nearest neighbors in the features of {result['layer']}."
    caption = "Below each: class and cosine similarity; ✕ where the class differs."
    title = f"Nearest neighbors in {result['layer']} of {result['model']}"
    return RenderedFigure(plot_image_grid(rows, ["query", "", "nearest"], 0.92), alt_text, title, caption)


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
    columns = ["network", "layer", "searched images", "same class", "k-NN accuracy", "mean cosine of the nearest"]
    return RenderedTable("Neighbors by the cosine similarity of features", columns, rows)
