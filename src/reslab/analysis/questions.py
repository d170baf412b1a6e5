"""The questions there are, one line each: what is asked, of whom it was learnt, its options, and who answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.analysis.gradients import GradientOptions, ask_gradients
from reslab.analysis.landscape import landscape
from reslab.analysis.landscape_data import LandscapeOptions
from reslab.analysis.lesion import LesionOptions, lesion
from reslab.analysis.pictures import RANDOM
from reslab.analysis.shapes import LayerOptions, ask_cost, ask_shapes
from reslab.analysis.subject import Subject
from reslab.spec.errors import refuse, unknown
from reslab.spec.values import override


@dataclass(frozen=True)
class Question:
    """A question: `ask` of each subject alone, or `ask_together` of all at once, with `options` (a frozen dataclass).

    Each answer is a frozen dataclass of plain data. `data` is what it is asked with where nothing is said: empty for
    the run's own pictures or the digits, `random` where pictures do not matter.
    """

    name: str
    summary: str
    source: str
    options: Any
    ask: Callable[[Subject, Any], Any] | None = None
    ask_together: Callable[[Sequence[Subject], Any], Any] | None = None
    data: str = ""


QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        Question(
            "shapes",
            "what every layer gives and how much of the image it sees",
            "Araujo, Norris and Sim 2019, Computing Receptive Fields of Convolutional Neural Networks, Eq. 2",
            LayerOptions(),
            ask_shapes,
            data=RANDOM,
        ),
        Question(
            "cost",
            "parameters, multiply-adds and memory of every unit",
            "He et al. 2015, arXiv:1512.03385, Table 1 and Sec. 3.4",
            LayerOptions(),
            ask_cost,
            data=RANDOM,
        ),
        Question(
            "gradients",
            "the size of the loss's gradient at every unit, and the ways on which it came",
            "He et al. 2016, arXiv:1603.05027, Eq. 5; He et al. 2015, arXiv:1512.03385, Sec. 4.1",
            GradientOptions(),
            ask_gradients,
        ),
        Question(
            "lesion",
            "the error with units deleted and permuted, and the gradient of paths by their length",
            "Veit et al. 2016, arXiv:1605.06431, Secs. 4 and 5",
            LesionOptions(),
            lesion,
        ),
        Question(
            "landscape",
            "the loss around the weights along filter-normalised directions, and its curvature",
            "Li et al. 2018, arXiv:1712.09913",
            LandscapeOptions(),
            landscape,
        ),
    )
}


def get_question(name: str) -> Question:
    """The question of this name; ValueError with the nearest names."""
    if name not in QUESTIONS:
        raise unknown("question", name, QUESTIONS, "`reslab inspect` lists them all")
    return QUESTIONS[name]


def ask(name: str, subjects: Sequence[Subject], settings: Mapping[str, Any] | None = None) -> list[Any]:
    """The answers to the question: one a subject, or one in all where it is put to several together.

    `settings` override the question's options by name. Raises ValueError for an unknown question or option.
    """
    question = get_question(name)
    if not subjects:
        raise refuse("at least one subject", "none")
    options = override_options(question, settings or {})
    if question.ask is None:
        assert question.ask_together is not None
        return [question.ask_together(subjects, options)]
    return [question.ask(subject, options) for subject in subjects]


def override_options(question: Question, settings: Mapping[str, Any]) -> Any:
    """The question's options with some overridden; ValueError names those there are."""
    return override(question.options, settings, kind=f"option of {question.name}")


def default_data(name: str) -> str | None:
    """What the question is asked with where nothing is said; None for the run's own pictures or the digits."""
    return RANDOM if get_question(name).data == RANDOM else None
