"""How the answers to `shapes` are shown.

How the answers to `cost` are shown.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import overlaid, tints
from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import amount, count, plural, shape
from reslab.report.plots.depth import depth_figure

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


Answer_cost = Mapping[str, Any]
_COLUMNS = ["parameters", "weights", "multiply-adds", "activations, bytes"]
_KEYS = ("params", "weights", "macs", "activation_bytes")


def show_cost(answers: Sequence[Answer_cost]) -> Shown:
    """Parameters, multiply-adds and memory of every unit, several networks over each other."""
    measures = (
        ("params", "Parameters", "of each unit or layer, on a logarithmic scale"),
        ("macs", "Multiply-adds for one image", "convolutions and linear layers, on a logarithmic scale"),
        ("activation_bytes", "Memory of the outputs, bytes an image", "float32, on a logarithmic scale"),
    )
    figures = tuple(_figure(answers, *measure) for measure in measures)
    words = tuple(_words_cost(answer) for answer in answers)
    tables = tuple(_table_cost(answer) for answer in answers)
    return Shown("What the parts cost", words, figures, (*_totals(answers), *tables))


def _figure(answers: Sequence[Answer_cost], key: str, title: str, note: str) -> ShownFigure:
    profiles = overlaid(answers, tints(answers), lambda answer: [part[key] for part in _rows(answer)])
    figure = depth_figure(profiles, across="unit or layer, from the input to the output")
    return ShownFigure(figure, f"{title}: {note}.", title, f"{note[0].upper()}{note[1:]}.")


def _rows(answer: Answer_cost) -> Sequence[Mapping[str, Any]]:
    """The parts; of a single unit its layers."""
    return answer["parts"] if len(answer["parts"]) > 1 else answer["layers"]


def _words_cost(answer: Answer_cost) -> str:
    total = answer["total"]
    return (
        f"{answer['subject']}, for {shape(answer['input_shape'])}: {count(total['params'])} parameters, of them "
        f"{count(total['weights'])} weights; {amount(total['macs'])} multiply-adds and "
        f"{amount(total['activation_bytes'])}B of outputs an image."
    )


def _totals(answers: Sequence[Answer_cost]) -> list[ShownTable]:
    if len(answers) < 2:
        return []
    rows = [[answer["subject"], *(count(answer["total"][key]) for key in _KEYS)] for answer in answers]
    return [ShownTable("Together", ["network", *_COLUMNS], rows)]


def _table_cost(answer: Answer_cost) -> ShownTable:
    rows = [[part["name"], *(count(part[key]) for key in _KEYS)] for part in [*_rows(answer), answer["total"]]]
    return ShownTable(answer["subject"], ["part", *_COLUMNS], rows)
