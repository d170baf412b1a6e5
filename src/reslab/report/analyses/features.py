"""How the answers to `features` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import number, percent, plural, shape
from reslab.report.plots.images import Row, coloured, grid_figure, lit, pixels_of, signed

Answer = Mapping[str, Any]


def show(answers: Sequence[Answer]) -> Shown:
    """Kernels and maps of each network, and how many of its channels are silent."""
    return Shown(
        "What the layers make of a picture",
        tuple(features_words(answer) for answer in answers),
        tuple(figure for answer in answers for figure in (_maps(answer), _kernels(answer))),
        tuple(_table(answer) for answer in answers),
    )


def features_words(answer: Answer) -> str:
    """How many channels say nothing on any picture, and where."""
    layers = answer["layers"]
    total, silent = (sum(layer[key] for layer in layers) for key in ("num_channels", "num_silent"))
    where = ", ".join(f"{layer['num_silent']} of {layer['layer']}" for layer in layers if layer["num_silent"])
    images = plural(answer["num_images"], "picture")
    words = f"{silent} of {total} channels are silent on all {images}" + (f" ({where})" if where else "")
    zeros = ", ".join(f"{percent(layer['zeros'], 0)} in {layer['layer']}" for layer in layers)
    return f"{answer['subject']}: {words}. Values that are zero: {zeros}."


def _maps(answer: Answer) -> ShownFigure:
    picture = pixels_of(answer["picture"])
    rows = []
    for place, layer in enumerate(answer["layers"]):
        name = f"{layer['layer']}\n{shape(layer['shape'])}"
        captions = ["", *(str(channel) for channel in layer["channels"])]
        first = picture if place == 0 else None
        rows.append(Row(name, [first, *(lit(values) for values in layer["maps"])], captions))
    label = f"{answer['subject']}: maps of each layer for one picture ({answer['label']})."
    caption = (
        "The channels with the most energy, each from its least (dark) to its most (bright); below each its number."
    )
    return ShownFigure(grid_figure(rows, cell_inches=0.78), label, f"Feature maps of {answer['subject']}", caption)


def _kernels(answer: Answer) -> ShownFigure:
    found = answer["kernels"]
    strongest = max((abs(v) for kernel in found for part in kernel["values"] for row in part for v in row), default=1.0)
    pictures: list[np.ndarray | None] = [
        coloured(kernel["values"]) if len(kernel["values"]) == 3 else signed(kernel["values"][0], strongest)
        for kernel in found
    ]
    captions = [f"{kernel['channel']}: {number(kernel['norm'], 2)}" for kernel in found]
    rows = [Row("", pictures[i : i + 12], captions[i : i + 12]) for i in range(0, len(pictures), 12)]
    colours = len(found) > 0 and len(found[0]["values"]) == 3
    how = "Grey is zero." if colours else "Vermilion: above zero. Blue: below."
    label = f"{answer['subject']}: kernels of {answer['convolution']}, the largest first."
    title = f"Kernels of {answer['convolution']}, {answer['subject']}"
    return ShownFigure(
        grid_figure(rows, cell_inches=0.78), label, title, f"{how} Below each: its channel and its norm."
    )


def _table(answer: Answer) -> ShownTable:
    rows = [
        [
            layer["layer"],
            shape(layer["shape"]),
            str(layer["num_silent"]),
            percent(layer["zeros"], 1),
            number(layer["mean"], 3),
            number(layer["std"], 3),
        ]
        for layer in answer["layers"]
    ]
    columns = ["layer", "output", "silent channels", "zeros", "mean", "deviation"]
    return ShownTable(f"{answer['subject']}, over {plural(answer['num_images'], 'picture')}", columns, rows)
