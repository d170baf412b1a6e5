"""How the answers to `telescope` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import along_training, overlaid, tints
from reslab.report.format import number
from reslab.report.plots.depth import depth_figure
from reslab.report.shown import Shown, ShownFigure, ShownTable

Answer = Mapping[str, Any]


def show(answers: Sequence[Answer]) -> Shown:
    """The error of the sum from every unit to its stage's end, and what each branch adds."""
    colours = tints(answers)
    errors = overlaid(answers, colours, lambda answer: [unit["error"] for unit in answer["units"]])
    shares = overlaid(answers, colours, lambda answer: [unit["share"] for unit in answer["units"]])
    figures = [
        ShownFigure(
            depth_figure(errors, level=1.0),
            "Relative error of x plus the sum of branches, from each unit to its stage's end, on a logarithmic scale.",
            "Error of: signal here + all branches from here on = signal at the stage's end",
            "Relative to the signal's norm, logarithmic. Near 1e-7: rounding. Near 1, the thin line: as large as the "
            "signal. A gap: a unit that changes the shape.",
        ),
        ShownFigure(
            depth_figure(shares, log=False, from_zero=True),
            "Norm of each unit's branch over that of its output.",
            "What each branch brings: ||F(x)|| over ||unit's output||",
        ),
        *along_training(answers, lambda answer: _largest(answer) or float("nan"), "Largest error"),
    ]
    words = tuple(_words(answer) for answer in answers)
    return Shown("Does the signal add up?", words, tuple(figures), tuple(_table(answer) for answer in answers))


def _largest(answer: Answer) -> float | None:
    values = [value for value in (answer["worst"], answer["worst_exact"]) if value is not None]
    return max(values, default=None)


def _words(answer: Answer) -> str:
    name = f"{answer['subject']}: {answer['verdict']}."
    largest = _largest(answer)
    if largest is None:
        return f"{name} There is nothing to add up."
    if answer["verdict"] == "holds":
        return f"{name} The signal at a stage's end is the one before plus all branches, to {largest:.0e} of its norm."
    why = f", as {answer['obstacle']}" if answer["obstacle"] else ""
    return f"{name} The sum misses the signal by up to {number(largest, 2)} of its norm{why}."


def _table(answer: Answer) -> ShownTable:
    rows = [
        [unit["label"], _error(unit["error"]), "yes" if unit["exact"] else "no", number(unit["share"], 3)]
        for unit in answer["units"]
    ]
    return ShownTable(answer["subject"], ["unit", "error", "should hold", "||F|| / ||output||"], rows)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
