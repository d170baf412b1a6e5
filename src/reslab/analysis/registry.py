"""The questions there are, one line each: what is asked, of whom it was learnt, its options, and who answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.analysis.attribution import AttributionOptions, attribute
from reslab.analysis.compare import CompareOptions, compare
from reslab.analysis.features import FeatureOptions, features
from reslab.analysis.gradients import GradientOptions, ask_gradients
from reslab.analysis.landscape.evaluator import LandscapeOptions
from reslab.analysis.landscape.landscape import landscape
from reslab.analysis.lesion import LesionOptions, lesion
from reslab.analysis.linear_probes import ProbeOptions, probes
from reslab.analysis.nearest import NearestOptions, nearest
from reslab.analysis.responses import ResponseOptions, ask_responses
from reslab.analysis.shapes import LayerOptions, ask_cost, ask_shapes
from reslab.analysis.signal import (
    OrderOptions,
    ScalingOptions,
    TelescopeOptions,
    ask_orders,
    ask_scaling,
    ask_telescope,
)
from reslab.analysis.similarity import SimilarityOptions, similarity
from reslab.analysis.subject import RANDOM, Subject
from reslab.spec.config import override
from reslab.spec.errors import refuse, unknown


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
            "telescope",
            "whether the signal at a stage's end is the signal before plus what every branch adds",
            "He et al. 2016, arXiv:1603.05027, Eq. 4",
            TelescopeOptions(),
            ask_telescope,
        ),
        Question(
            "responses",
            "how strongly each layer answers, ahead of nonlinearity and addition",
            "He et al. 2015, arXiv:1512.03385, Fig. 7",
            ResponseOptions(),
            ask_responses,
        ),
        Question(
            "scaling",
            "what factors and gates on the shortcuts multiply to, predicted and measured",
            "He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8 and Sec. 3.1",
            ScalingOptions(),
            ask_scaling,
        ),
        Question(
            "orders",
            "what an order of words does to the signal: sums that do not pass, branches that only add, growth",
            "He et al. 2016, arXiv:1603.05027, Sec. 4.1 and Fig. 4",
            OrderOptions(),
            ask_orders,
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
        Question(
            "attribution",
            "what in a picture speaks for its class: Grad-CAM, integrated gradients, occlusion",
            "Selvaraju et al. 2017, arXiv:1610.02391; Sundararajan et al. 2017, arXiv:1703.01365; "
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            AttributionOptions(),
            attribute,
        ),
        Question(
            "features",
            "kernels of the first convolution and maps of any layer for one picture, and silent channels",
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            FeatureOptions(),
            features,
        ),
        Question(
            "similarity",
            "how alike the layers of one and of two networks are: linear CKA on the same pictures",
            "Kornblith et al. 2019, arXiv:1905.00414",
            SimilarityOptions(),
            ask_together=similarity,
        ),
        Question(
            "nearest",
            "the pictures nearest to some in a layer's features, and whether they are of the same class",
            "Krizhevsky et al. 2012, Sec. 6.1",
            NearestOptions(),
            nearest,
        ),
        Question(
            "probes",
            "how much of the classes a linear rule reads off each layer",
            "Alain and Bengio 2016, arXiv:1610.01644",
            ProbeOptions(),
            probes,
        ),
        Question(
            "compare",
            "two networks side by side: curves, weights, predictions that flipped, and a paired test",
            "McNemar 1947, Psychometrika 12",
            CompareOptions(),
            ask_together=compare,
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


def ask_each(
    name: str, subjects: Sequence[Subject], settings: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, str]]:
    """As `ask`, with those left out of whom it cannot be asked: the answers, and why by the subject's name.

    Raises ValueError where nobody can be asked.
    """
    if get_question(name).ask is None or len(subjects) < 2:
        return ask(name, subjects, settings), {}
    answers: list[Any] = []
    refused: list[tuple[Subject, ValueError]] = []
    for subject in subjects:
        try:
            answers += ask(name, [subject], settings)
        except ValueError as error:
            refused.append((subject, error))
    if not answers:
        raise refused[0][1]
    return answers, {subject.name: str(error) for subject, error in refused}


def override_options(question: Question, settings: Mapping[str, Any]) -> Any:
    """The question's options with some overridden; ValueError names those there are."""
    return override(question.options, settings, kind=f"option of {question.name}")


def default_data(name: str) -> str | None:
    """What the question is asked with where nothing is said; None for the run's own pictures or the digits."""
    return RANDOM if get_question(name).data == RANDOM else None
