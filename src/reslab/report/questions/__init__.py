"""How each answer is shown: plain data in, words, figures and tables out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reslab.report.questions import cost, gradients, landscape, lesion, shapes
from reslab.report.shown import Shown
from reslab.spec.errors import unknown

Answers = Sequence[Mapping[str, Any]]

SHOWS: dict[str, Callable[[Answers], Shown]] = {
    "shapes": shapes.show,
    "cost": cost.show,
    "gradients": gradients.show,
    "lesion": lesion.show,
    "landscape": landscape.show,
}


def show_answers(question: str, answers: Answers) -> Shown:
    """The answers to a question, as their JSON has them, made ready to be shown. ValueError for an unknown question."""
    if question not in SHOWS:
        raise unknown("question", question, SHOWS)
    return SHOWS[question](answers)
