"""How the answers to `orders` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import Tint, overlaid, tints
from reslab.report.format import number, percent
from reslab.report.plots.depth import depth_figure
from reslab.report.shown import Shown, ShownFigure, ShownTable

Answer = Mapping[str, Any]


def show(answers: Sequence[Answer]) -> Shown:
    """Sums that do not pass, branches that only add, growth within a stage: every order on each picture."""
    colours = tints(answers)
    figures = (
        _figure(
            answers, colours, "superposition", "Do sums pass? ||after(a+b) − after(a) − after(b)|| over ||after(a+b)||",
            "a: the shortcut, b: the branch. 0 where nothing comes after the addition.",
        ),
        _figure(
            answers, colours, "branch_min", "The smallest value of each branch",
            "The thin line is 0. On or above it a branch can only add, never take away.", level=0.0,
        ),
        _figure(
            answers, colours, "growth", "The signal's variance over that of its stage's first output",
            "Logarithmic; the thin line is 1: no growth.", log=True, level=1.0,
        ),
        _figure(answers, colours, "mean", "The signal's mean", "The thin line is 0.", level=0.0),
    )  # fmt: skip
    words = tuple(_words(answer) for answer in answers)
    tables = (*_together(answers), *(_table(answer) for answer in answers))
    return Shown("What the order of words does to the signal", words, figures, tables)


def _figure(
    answers: Sequence[Answer],
    colours: Sequence[Tint],
    key: str,
    title: str,
    words: str,
    *,
    log: bool = False,
    level: float | None = None,
) -> ShownFigure:
    profiles = overlaid(answers, colours, lambda answer: [unit[key] for unit in answer["units"]])
    return ShownFigure(depth_figure(profiles, log=log, level=level), f"{title}, by unit.", title, words)


def _words(answer: Answer) -> str:
    passing = answer["worst_superposition"] < 1e-5
    sums = "sums pass every unit" if passing else f"sums miss by up to {percent(answer['worst_superposition'], 0)}"
    lowest = answer["lowest_branch"]
    adds = "its branches only add" if lowest >= 0 else f"its branches reach down to {number(lowest, 2)}"
    growth = answer["largest_growth"]
    grows = f"grows up to {number(growth, 2)} times" if growth > 1 else "does not grow"
    return f"{answer['subject']} ({answer['sentence']}): {sums}, {adds}, and the variance {grows} within a stage."


def _together(answers: Sequence[Answer]) -> list[ShownTable]:
    if len(answers) < 2:
        return []
    rows = [
        [
            answer["subject"],
            number(answer["worst_superposition"], 2),
            number(answer["lowest_branch"], 2),
            number(answer["largest_growth"], 2),
        ]
        for answer in answers
    ]
    return [ShownTable("Together", ["network", "sums miss by", "lowest of a branch", "growth"], rows)]


def _table(answer: Answer) -> ShownTable:
    names = {"sums miss by": "superposition", "branch min": "branch_min", "branch mean": "branch_mean"}
    names |= {"below 0": "branch_negative", "mean": "mean", "variance": "variance", "growth": "growth"}
    rows = [[unit["label"], *(number(unit[key], 3) for key in names.values())] for unit in answer["units"]]
    return ShownTable(answer["subject"], ["unit", *names], rows)
