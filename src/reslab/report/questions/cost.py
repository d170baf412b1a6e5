"""How the answers to `cost` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import overlaid, tints
from reslab.report.format import amount, count, shape
from reslab.report.plots.depth import depth_figure
from reslab.report.shown import Shown, ShownFigure, ShownTable

Answer = Mapping[str, Any]
_COLUMNS = ["parameters", "weights", "multiply-adds", "activations, bytes"]
_KEYS = ("params", "weights", "macs", "activation_bytes")


def show(answers: Sequence[Answer]) -> Shown:
    """Parameters, multiply-adds and memory of every unit, several networks over each other."""
    measures = (
        ("params", "Parameters", "of each unit or layer, on a logarithmic scale"),
        ("macs", "Multiply-adds for one image", "convolutions and linear layers, on a logarithmic scale"),
        ("activation_bytes", "Memory of the outputs, bytes an image", "float32, on a logarithmic scale"),
    )
    figures = tuple(_figure(answers, *measure) for measure in measures)
    words = tuple(_words(answer) for answer in answers)
    tables = tuple(_table(answer) for answer in answers)
    return Shown("What the parts cost", words, figures, (*_totals(answers), *tables))


def _figure(answers: Sequence[Answer], key: str, title: str, note: str) -> ShownFigure:
    profiles = overlaid(answers, tints(answers), lambda answer: [part[key] for part in _rows(answer)])
    figure = depth_figure(profiles, across="unit or layer, from the input to the output")
    return ShownFigure(figure, f"{title}: {note}.", title, f"{note[0].upper()}{note[1:]}.")


def _rows(answer: Answer) -> Sequence[Mapping[str, Any]]:
    """The parts; of a single unit its layers."""
    return answer["parts"] if len(answer["parts"]) > 1 else answer["layers"]


def _words(answer: Answer) -> str:
    total = answer["total"]
    return (
        f"{answer['subject']}, for {shape(answer['input_shape'])}: {count(total['params'])} parameters, of them "
        f"{count(total['weights'])} weights; {amount(total['macs'])} multiply-adds and "
        f"{amount(total['activation_bytes'])}B of outputs an image."
    )


def _totals(answers: Sequence[Answer]) -> list[ShownTable]:
    if len(answers) < 2:
        return []
    rows = [[answer["subject"], *(count(answer["total"][key]) for key in _KEYS)] for answer in answers]
    return [ShownTable("Together", ["network", *_COLUMNS], rows)]


def _table(answer: Answer) -> ShownTable:
    rows = [[part["name"], *(count(part[key]) for key in _KEYS)] for part in [*_rows(answer), answer["total"]]]
    return ShownTable(answer["subject"], ["part", *_COLUMNS], rows)
