"""How the answers to `shapes` are shown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import overlaid, tints
from reslab.report.format import plural, shape
from reslab.report.plots.depth import depth_figure
from reslab.report.shown import Shown, ShownFigure, ShownTable

Answer = Mapping[str, Any]
_SHORTCUT = re.compile(r"downsample|shortcut|mix\.gate")


def show(answers: Sequence[Answer]) -> Shown:
    """What every layer sees and gives: receptive field, side of the maps, channels."""
    colours, across = tints(answers), "layer of the main way, from the input to the output"
    fields = overlaid(answers, colours, lambda answer: [layer["receptive_field"] for layer in _maps(answer)])
    sides = overlaid(answers, colours, lambda answer: [layer["output_shape"][-1] for layer in _maps(answer)])
    channels = overlaid(answers, colours, lambda answer: [layer["output_shape"][0] for layer in _maps(answer)])
    side = max(answers[0]["input_shape"][1:])
    figures = (
        ShownFigure(
            depth_figure(fields, across=across, up="pixels", level=side, steps=True),
            "Receptive field of every layer, in pixels of the image along a side, on a logarithmic scale.",
            "What one place sees",
            f"Pixels along a side. The thin line is the image of {side} pixels.",
        ),
        ShownFigure(
            depth_figure(sides, across=across, up="places", steps=True),
            "Side of every layer's maps, on a logarithmic scale.",
            "Side of the maps",
        ),
        ShownFigure(
            depth_figure(channels, across=across, up="channels", steps=True),
            "Channels of every layer, on a logarithmic scale.",
            "Channels",
        ),
    )
    words = tuple(_words(answer) for answer in answers)
    return Shown("Shapes on the way through", words, figures, tuple(_table(answer) for answer in answers))


def _words(answer: Answer) -> str:
    maps = _maps(answer)
    size = shape(answer["input_shape"])
    if not maps:
        return f"{answer['subject']}, for {size}: {plural(len(answer['layers']), 'layer')}."
    last = maps[-1]
    return (
        f"{answer['subject']}, for {size}: {plural(len(answer['layers']), 'layer')}. One place of its last map "
        f"({last['name']}, {shape(last['output_shape'])}) sees {plural(last['receptive_field'], 'pixel')} along a side."
    )


def _maps(answer: Answer) -> list[Mapping[str, Any]]:
    """The layers on the main way whose places still see a part of the image: no projections, nothing after pooling."""
    return [
        layer
        for layer in answer["layers"]
        if len(layer["output_shape"]) == 3 and layer["receptive_field"] and not _SHORTCUT.search(layer["name"])
    ]


def _table(answer: Answer) -> ShownTable:
    rows = [
        [layer["name"], layer["kind"], shape(layer["output_shape"]), str(layer["receptive_field"] or "all")]
        for layer in answer["layers"]
    ]
    return ShownTable(answer["subject"], ["layer", "kind", "output", "sees pixels"], rows)
