"""How the answers to `gradients` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.figures.depth import Profile, depth_figure
from reslab.report.questions.overlay import Tint, tints
from reslab.report.shown import Shown, ShownFigure, ShownTable
from reslab.report.tables import number


def show(answers: Sequence[Mapping[str, Any]]) -> Shown:
    """Norms of the gradient against depth, every network on one picture, with the verdict on each."""
    colours = tints(answers)
    return Shown(
        "The loss's gradient at each unit",
        tuple(_verdict(answer) for answer in answers),
        (
            _figure(answers, colours, "input", "at each unit's input, ||dL/dx||"),
            _figure(answers, colours, "weights", "at each unit's weights, ||dL/dW||"),
        ),
        tuple(_table(answer) for answer in answers),
    )


def _verdict(answer: Mapping[str, Any]) -> str:
    slope = answer["slope"]
    return (
        f"{answer['subject']}: {slope['verdict']}. On the way back the gradient changes by a factor of "
        f"{number(slope['per_unit'], 3)} a unit, {number(slope['decades'], 2)} powers of ten from last unit to first."
    )


def _figure(answers: Sequence[Mapping[str, Any]], colours: Sequence[Tint], key: str, where: str) -> ShownFigure:
    profiles = [
        Profile(tint.label, [unit[key] for unit in answer["units"]], tint.colour, tint.dashed, strength=tint.strength)
        for answer, tint in zip(answers, colours, strict=True)
    ]
    return ShownFigure(
        depth_figure(profiles),
        f"Norm of the gradient {where}, on a logarithmic scale, from the input to the output.",
        f"Norm of the gradient {where}",
        "Logarithmic scale; the loss sits at the right, the image at the left.",
    )


def _table(answer: Mapping[str, Any]) -> ShownTable:
    rows = [[unit["label"], number(unit["input"]), number(unit["weights"])] for unit in answer["units"]]
    return ShownTable(answer["subject"], ["unit", "||dL/dx||", "||dL/dW||"], rows)
