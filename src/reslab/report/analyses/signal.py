"""How the answers to `scaling` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import Tint, along_training, overlaid, tints, titled
from reslab.report.format import number
from reslab.report.plots.depth import Profile, depth_figure
from reslab.report.shown import Shown, ShownFigure, ShownTable

Answer = Mapping[str, Any]
_CLOSE = 0.01


def show(answers: Sequence[Answer]) -> Shown:
    """The product of the factors beside the gradient that came back, and how open each gate is."""
    colours = tints(answers)
    named = [(answer, tint) for answer, tint in zip(answers, colours, strict=True) if tint.label]
    figures = [_ratios(named), *_gates(answers, colours), _factors(answers, colours)]
    figures += along_training(answers, lambda answer: answer["product"], "Product of all factors")
    words = (*(_words(answer) for answer in answers), f"The rule. {answers[0]['rule']}")
    return Shown("What the shortcuts multiply to", words, tuple(figures), tuple(_table(each) for each in answers))


def _words(answer: Answer) -> str:
    ends = {"exploding": "the signal grows", "vanishing": "the signal fades", "kept": "the signal is kept"}
    return (
        f"{answer['subject']}: {answer['verdict']}. The factors of all shortcuts multiply to "
        f"{number(answer['product'], 3)}: by the shortcuts alone {ends[answer['verdict']]}. {_measured(answer)}"
    )


def _measured(answer: Answer) -> str:
    """How far the gradient that came back by the shortcuts is from the product; words after the addition change it."""
    ratios = [unit["direct"] / unit["product"] for unit in answer["units"] if unit["direct"] and unit["product"]]
    if not ratios:
        return "No unit keeps its shape, so no gradient is held against that."
    low, high = min(ratios), max(ratios)
    if low > 1 - _CLOSE and high < 1 + _CLOSE:
        return "The gradient that came back by them is what the product says, to 1 %."
    return f"The gradient that came back by them is {number(low, 2)} to {number(high, 2)} times what the product says."


def _ratios(named: Sequence[tuple[Answer, Tint]]) -> ShownFigure:
    profiles: list[Profile] = []
    for answer, tint in named:
        units = answer["units"]
        profiles.append(Profile(tint.label, [unit["direct"] for unit in units], tint.colour, strength=0.5))
        profiles.append(Profile("", [unit["product"] for unit in units], tint.colour, dashed=True))
        profiles.append(Profile("", [unit["total"] for unit in units], tint.colour, dotted=True))
    title = "The gradient at each unit over that at its stage's end"
    words = "The product of the factors predicts what came by the shortcuts. Logarithmic; the thin line is 1."
    strokes = ("by the shortcuts alone", "the product predicts", "with the branches")
    return ShownFigure(
        depth_figure(profiles, level=1.0, strokes=strokes), f"{title}, on a logarithmic scale.", title, words
    )


def _gates(answers: Sequence[Answer], colours: Sequence[Tint]) -> list[ShownFigure]:
    gated = [answer for answer in answers if any(unit["openness"] is not None for unit in answer["units"])]
    if not gated:
        return []
    profiles = overlaid(answers, colours, lambda answer: [unit["openness"] for unit in answer["units"]])
    title = titled("Mean openness of each gate, the sigmoid", answers, gated)
    return [ShownFigure(depth_figure(profiles, log=False, up="openness"), f"{title}, by unit.", title)]


def _factors(answers: Sequence[Answer], colours: Sequence[Tint]) -> ShownFigure:
    profiles = overlaid(answers, colours, lambda answer: [unit["carried"] for unit in answer["units"]])
    title = "What multiplies each branch on its way to the stage's end"
    words = "The product of the factors of all later units of the stage (He et al. 2016, Eq. 7)."
    return ShownFigure(depth_figure(profiles, level=1.0), f"{title}, on a logarithmic scale.", title, words)


def _table(answer: Answer) -> ShownTable:
    names = {"factor": "factor", "openness": "openness", "product": "product", "by shortcuts": "direct"}
    names |= {"whole": "total", "branch carries": "carried"}
    rows = [
        [unit["label"], *(number(unit[key], 3) for key in names.values()), _error(unit["error"])]
        for unit in answer["units"]
    ]
    return ShownTable(answer["subject"], ["unit", *names, "error of the sum"], rows)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"
