"""How the answers to `gradients` are shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reslab.report.analyses.overlay import Tint, along_training, overlaid, tints, titled
from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import number
from reslab.report.plots.depth import Profile, depth_figure

_SCALE = "Logarithmic scale; the loss sits at the right, the image at the left."


def show(answers: Sequence[Mapping[str, Any]]) -> Shown:
    """Norms of the gradient against depth, every network on one picture, the two ways it came, and the verdicts."""
    colours = tints(answers)
    figures = [
        _norms(answers, colours, "input", "at each unit's input, ||dL/dx||"),
        _norms(answers, colours, "weights", "at each unit's weights, ||dL/dW||"),
    ]
    ends = [place for place, tint in enumerate(colours) if tint.label]
    chosen, looks = [answers[place] for place in ends], [colours[place] for place in ends]
    if any(answer["residual"] for answer in answers):
        figures.append(_ways(chosen, looks))
    if any(unit["residual_sum"] is not None for answer in answers for unit in answer["units"]):
        figures.append(_predictions(chosen, looks))
    figures += along_training(
        answers, lambda answer: 10 ** answer["slope"]["decades"], "Gradient, first unit over last"
    )
    words = (*(_verdict(answer) for answer in answers), *_compared(chosen), f"The rule. {answers[0]['slope']['rule']}")
    return Shown("The loss's gradient at each unit", words, tuple(figures), tuple(_table(each) for each in answers))


def _verdict(answer: Mapping[str, Any]) -> str:
    slope = answer["slope"]
    if slope["decades"] is None or abs(slope["decades"]) == float("inf"):
        return f"{answer['subject']}: {slope['verdict']}. The gradient is zero or no finite number at some unit."
    change = "grows" if slope["decades"] > 0 else "shrinks"
    factor = slope["per_unit"] if slope["decades"] > 0 else 1 / slope["per_unit"]
    return (
        f"{answer['subject']}: {slope['verdict']}. On the way back the gradient {change} {number(factor, 3)} times a "
        f"unit, {number(10 ** abs(slope['decades']), 2)} times from the last of {len(answer['units'])} units to the "
        f"first (D = {slope['decades']:.2f})."
    )


def _compared(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """How well either prediction meets what was measured at the first unit of the residual networks."""
    found = []
    for answer in answers:
        first = answer["units"][0]
        if not answer["residual"] or not first["input"]:
            continue
        summed, product = (first[key] / first["input"] for key in ("residual_sum", "plain_product"))
        found.append(
            f"At the first unit of {answer['subject']} the sum over shortcuts and branches predicts "
            f"{number(summed, 2)} times the measured norm; the product of the branches alone, as in a plain network, "
            f"{number(product, 2)} times."
        )
    return found


def _norms(answers: Sequence[Mapping[str, Any]], colours: Sequence[Tint], key: str, where: str) -> ShownFigure:
    profiles = overlaid(answers, colours, lambda answer: [unit[key] for unit in answer["units"]])
    label = f"Norm of the gradient {where}, on a logarithmic scale, from the input to the output."
    return ShownFigure(depth_figure(profiles), label, f"Norm of the gradient {where}", _SCALE)


def _ways(answers: Sequence[Mapping[str, Any]], colours: Sequence[Tint]) -> ShownFigure:
    """The two terms of Eq. 5."""
    profiles: list[Profile] = []
    for answer, tint in zip(answers, colours, strict=True):
        if answer["residual"]:
            lines = _lines(answer, tint, ("direct", "branches"))
            profiles += [next(lines), replace(next(lines), dashed=True)]
    residual = [answer for answer in answers if answer["residual"]]
    title = titled("Norm of the gradient by the two ways back", answers, residual)
    words = "From the stage's end to each unit (He et al. 2016, Eq. 5). Logarithmic scale."
    figure = depth_figure(profiles, strokes=("by the shortcuts alone", "through any branch"))
    return ShownFigure(figure, f"{title}, on a logarithmic scale.", title, words)


def _predictions(answers: Sequence[Mapping[str, Any]], colours: Sequence[Tint]) -> ShownFigure:
    profiles: list[Profile] = []
    for answer, tint in zip(answers, colours, strict=True):
        lines = _lines(answer, tint, ("input", "residual_sum", "plain_product"))
        profiles.append(replace(next(lines), strength=0.5 * tint.strength))
        if answer["residual"]:
            profiles += [replace(next(lines), dashed=True), replace(next(lines), dotted=True)]
    title = "What a sum and what a product predict of ||dL/dx||"
    words = (
        "From the gains of each unit alone: shortcut and branch added at right angles, or the branches multiplied, as "
        "if there were no shortcut. In a plain network the product is exact. Logarithmic scale."
    )
    strokes = ("measured", "the sum predicts", "the product predicts")
    return ShownFigure(depth_figure(profiles, strokes=strokes), f"{title} at each unit.", title, words)


def _lines(answer: Mapping[str, Any], tint: Tint, keys: Sequence[str]) -> Iterator[Profile]:
    """A line for each measure, the first of them named."""
    for place, key in enumerate(keys):
        values = [unit[key] for unit in answer["units"]]
        yield Profile("" if place else tint.label, values, tint.colour, strength=tint.strength)


def _table(answer: Mapping[str, Any]) -> ShownTable:
    names = {"||dL/dx||": "input", "||dL/dW||": "weights"}
    if answer["residual"]:
        names |= {"by shortcuts": "direct", "by branches": "branches", "cosine": "cosine"}
        names |= {"sum predicts": "residual_sum", "product predicts": "plain_product"}
    rows = [[unit["label"], *(number(unit[key], 3) for key in names.values())] for unit in answer["units"]]
    return ShownTable(answer["subject"], ["unit", *names], rows)
