"""The questions there are, one line each: what is asked, of whom it was learnt, its options, and who answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.analysis.attribution import AttributionOptions, analyze_attribution
from reslab.analysis.compare import CompareOptions, compare_models
from reslab.analysis.features import FeatureOptions, analyze_features
from reslab.analysis.gradients import GradientOptions, analyze_gradients
from reslab.analysis.landscape.evaluator import LandscapeOptions
from reslab.analysis.landscape.landscape import analyze_landscape
from reslab.analysis.lesion import LesionOptions, analyze_lesion
from reslab.analysis.linear_probes import LinearProbeOptions, analyze_probes
from reslab.analysis.nearest import NeighborOptions, analyze_neighbors
from reslab.analysis.responses import ResponseOptions, analyze_responses
from reslab.analysis.shapes import LayerOptions, analyze_cost, analyze_shapes
from reslab.analysis.signal import (
    OrderOptions,
    ScalingOptions,
    TelescopeOptions,
    analyze_orders,
    analyze_scaling,
    analyze_telescope,
)
from reslab.analysis.similarity import SimilarityOptions, analyze_similarity
from reslab.analysis.subject import RANDOM, AnalysisTarget
from reslab.spec.config import override
from reslab.spec.errors import invalid, unknown_name


@dataclass(frozen=True)
class Analysis:
    """A question: `ask` of each subject alone, or `ask_together` of all at once, with `options` (a frozen dataclass).

    Each answer is a frozen dataclass of plain data. `data` is what it is asked with where nothing is said: empty for
    the run's own pictures or the digits, `random` where pictures do not matter.
    """

    name: str
    summary: str
    reference: str
    options: Any
    run: Callable[[AnalysisTarget, Any], Any] | None = None
    run_jointly: Callable[[Sequence[AnalysisTarget], Any], Any] | None = None
    default_data: str = ""


ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Analysis(
            "shapes",
            "what every layer gives and how much of the image it sees",
            "Araujo, Norris and Sim 2019, Computing Receptive Fields of Convolutional Neural Networks, Eq. 2",
            LayerOptions(),
            analyze_shapes,
            default_data=RANDOM,
        ),
        Analysis(
            "cost",
            "parameters, multiply-adds and memory of every unit",
            "He et al. 2015, arXiv:1512.03385, Table 1 and Sec. 3.4",
            LayerOptions(),
            analyze_cost,
            default_data=RANDOM,
        ),
        Analysis(
            "gradients",
            "the size of the loss's gradient at every unit, and the ways on which it came",
            "He et al. 2016, arXiv:1603.05027, Eq. 5; He et al. 2015, arXiv:1512.03385, Sec. 4.1",
            GradientOptions(),
            analyze_gradients,
        ),
        Analysis(
            "telescope",
            "whether the signal at a stage's end is the signal before plus what every branch adds",
            "He et al. 2016, arXiv:1603.05027, Eq. 4",
            TelescopeOptions(),
            analyze_telescope,
        ),
        Analysis(
            "responses",
            "how strongly each layer answers, ahead of nonlinearity and addition",
            "He et al. 2015, arXiv:1512.03385, Fig. 7",
            ResponseOptions(),
            analyze_responses,
        ),
        Analysis(
            "scaling",
            "what factors and gates on the shortcuts multiply to, predicted and measured",
            "He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8 and Sec. 3.1",
            ScalingOptions(),
            analyze_scaling,
        ),
        Analysis(
            "orders",
            "what an order of words does to the signal: sums that do not pass, branches that only add, growth",
            "He et al. 2016, arXiv:1603.05027, Sec. 4.1 and Fig. 4",
            OrderOptions(),
            analyze_orders,
        ),
        Analysis(
            "lesion",
            "the error with units deleted and permuted, and the gradient of paths by their length",
            "Veit et al. 2016, arXiv:1605.06431, Secs. 4 and 5",
            LesionOptions(),
            analyze_lesion,
        ),
        Analysis(
            "landscape",
            "the loss around the weights along filter-normalised directions, and its curvature",
            "Li et al. 2018, arXiv:1712.09913",
            LandscapeOptions(),
            analyze_landscape,
        ),
        Analysis(
            "attribution",
            "what in a picture speaks for its class: Grad-CAM, integrated gradients, occlusion",
            "Selvaraju et al. 2017, arXiv:1610.02391; Sundararajan et al. 2017, arXiv:1703.01365; "
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            AttributionOptions(),
            analyze_attribution,
        ),
        Analysis(
            "features",
            "kernels of the first convolution and maps of any layer for one picture, and silent channels",
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            FeatureOptions(),
            analyze_features,
        ),
        Analysis(
            "similarity",
            "how alike the layers of one and of two networks are: linear CKA on the same pictures",
            "Kornblith et al. 2019, arXiv:1905.00414",
            SimilarityOptions(),
            run_jointly=analyze_similarity,
        ),
        Analysis(
            "nearest",
            "the pictures nearest to some in a layer's features, and whether they are of the same class",
            "Krizhevsky et al. 2012, Sec. 6.1",
            NeighborOptions(),
            analyze_neighbors,
        ),
        Analysis(
            "probes",
            "how much of the classes a linear rule reads off each layer",
            "Alain and Bengio 2016, arXiv:1610.01644",
            LinearProbeOptions(),
            analyze_probes,
        ),
        Analysis(
            "compare",
            "two networks side by side: curves, weights, predictions that flipped, and a paired test",
            "McNemar 1947, Psychometrika 12",
            CompareOptions(),
            run_jointly=compare_models,
        ),
    )
}


def get_analysis(name: str) -> Analysis:
    """The question of this name; ValueError with the nearest names."""
    if name not in ANALYSES:
        raise unknown_name("analysis", name, ANALYSES, "`reslab inspect` lists them all")
    return ANALYSES[name]


def run_analysis(name: str, targets: Sequence[AnalysisTarget], overrides: Mapping[str, Any] | None = None) -> list[Any]:
    """The answers to the question: one a subject, or one in all where it is put to several together.

    `settings` override the question's options by name. Raises ValueError for an unknown question or option.
    """
    analysis = get_analysis(name)
    if not targets:
        raise invalid("at least one subject", "none")
    options = override_options(analysis, overrides or {})
    if analysis.run is None:
        assert analysis.run_jointly is not None
        return [analysis.run_jointly(targets, options)]
    return [analysis.run(target, options) for target in targets]


def run_each(
    name: str, targets: Sequence[AnalysisTarget], overrides: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, str]]:
    """As `ask`, with those left out of whom it cannot be asked: the answers, and why by the subject's name.

    Raises ValueError where nobody can be asked.
    """
    if get_analysis(name).run is None or len(targets) < 2:
        return run_analysis(name, targets, overrides), {}
    results: list[Any] = []
    rejected: list[tuple[AnalysisTarget, ValueError]] = []
    for target in targets:
        try:
            results += run_analysis(name, [target], overrides)
        except ValueError as error:
            rejected.append((target, error))
    if not results:
        raise rejected[0][1]
    return results, {target.name: str(error) for target, error in rejected}


def override_options(analysis: Analysis, overrides: Mapping[str, Any]) -> Any:
    """The question's options with some overridden; ValueError names those there are."""
    return override(analysis.options, overrides, kind=f"option of {analysis.name}")


def default_data(name: str) -> str | None:
    """What the question is asked with where nothing is said; None for the run's own pictures or the digits."""
    return RANDOM if get_analysis(name).default_data == RANDOM else None
