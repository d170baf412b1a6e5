"""How each answer is shown: plain data in, words, figures and tables out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reslab.report.analyses import (
    attribution,
    compare,
    features,
    gradients,
    landscape,
    lesion,
    nearest,
    probes,
    shapes,
    signal,
    similarity,
)
from reslab.report.analyses.result import Shown
from reslab.spec.errors import unknown

Answers = Sequence[Mapping[str, Any]]

SHOWS: dict[str, Callable[[Answers], Shown]] = {
    "shapes": shapes.show,
    "cost": shapes.show_cost,
    "gradients": gradients.show,
    "telescope": signal.show_telescope,
    "responses": signal.show_responses,
    "scaling": signal.show,
    "orders": signal.show_orders,
    "lesion": lesion.show,
    "landscape": landscape.show,
    "attribution": attribution.show,
    "features": features.show,
    "similarity": similarity.show,
    "nearest": nearest.show,
    "probes": probes.show,
    "compare": compare.show,
}


def show_answers(question: str, answers: Answers) -> Shown:
    """The answers to a question, as their JSON has them, made ready to be shown. ValueError for an unknown question."""
    if question not in SHOWS:
        raise unknown("question", question, SHOWS)
    return SHOWS[question](answers)
