"""The registry of analyses: name, summary, reference, options and function of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reslab.analysis.attribution import AttributionOptions, analyze_attribution
from reslab.analysis.compare import CompareOptions, compare_models
from reslab.analysis.features import FeatureOptions, SimilarityOptions, analyze_features, analyze_similarity
from reslab.analysis.gradients import GradientOptions, analyze_gradients
from reslab.analysis.inputs import RANDOM_IMAGES
from reslab.analysis.landscape import LandscapeOptions, analyze_landscape
from reslab.analysis.lesion import LesionOptions, analyze_lesion
from reslab.analysis.probes import LinearProbeOptions, NeighborOptions, analyze_neighbors, analyze_probes
from reslab.analysis.responses import ResponseOptions, analyze_responses
from reslab.analysis.shapes import CostOptions, LayerOptions, analyze_cost, analyze_shapes
from reslab.analysis.signal import (
    OrderOptions,
    ScalingOptions,
    TelescopeOptions,
    analyze_orders,
    analyze_scaling,
    analyze_telescope,
)
from reslab.analysis.target import AnalysisTarget
from reslab.spec.config import override
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.task import TASKS, TargetKind

_ALL_TARGETS = frozenset(TargetKind)


@dataclass(frozen=True)
class Analysis:
    """One analysis: `run` takes one target, or `run_jointly` all of them at once, with `options` (a frozen dataclass).

    Each result is a frozen dataclass of plain data. `targets` are the kinds of targets whose tasks it applies to, and
    `needs` says what the others lack. `default_data` is used if the user names no data: None is the run's
    own dataset, else the digits; `random` serves analyses that do not depend on the images.
    """

    name: str
    summary: str
    reference: str
    options: Any
    run: Callable[[AnalysisTarget, Any], Any] | None = None
    run_jointly: Callable[[Sequence[AnalysisTarget], Any], Any] | None = None
    default_data: str | None = None
    targets: frozenset[TargetKind] = _ALL_TARGETS
    needs: str = ""

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that it applies to."""
        return [name for name, task in TASKS.items() if task.target in self.targets]


ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Analysis(
            "shapes",
            "output shape and receptive field of every layer",
            "Araujo, Norris and Sim 2019, Computing Receptive Fields of Convolutional Neural Networks, Eq. 2",
            LayerOptions(),
            analyze_shapes,
            default_data=RANDOM_IMAGES,
        ),
        Analysis(
            "cost",
            "parameters, multiply-adds and activation memory of every block; of a detector by part, with the time",
            "He et al. 2015, arXiv:1512.03385, Table 1 and Sec. 3.4",
            CostOptions(),
            analyze_cost,
            default_data=RANDOM_IMAGES,
        ),
        Analysis(
            "gradients",
            "gradient flow: the gradient norm at every block, and its paths through shortcuts and branches",
            "He et al. 2016, arXiv:1603.05027, Eq. 5; He et al. 2015, arXiv:1512.03385, Sec. 4.1",
            GradientOptions(),
            analyze_gradients,
        ),
        Analysis(
            "telescope",
            "whether the signal at the end of a stage is the signal before plus the sum of all branches",
            "He et al. 2016, arXiv:1603.05027, Eq. 4",
            TelescopeOptions(),
            analyze_telescope,
        ),
        Analysis(
            "responses",
            "layer responses: the standard deviation before each nonlinearity and addition",
            "He et al. 2015, arXiv:1512.03385, Fig. 7",
            ResponseOptions(),
            analyze_responses,
        ),
        Analysis(
            "scaling",
            "the product of the factors and gates on the shortcuts, predicted and measured",
            "He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8 and Sec. 3.1",
            ScalingOptions(),
            analyze_scaling,
        ),
        Analysis(
            "orders",
            "what a block layout does to the signal: superposition, non-negative branches, growth",
            "He et al. 2016, arXiv:1603.05027, Sec. 4.1 and Fig. 4",
            OrderOptions(),
            analyze_orders,
        ),
        Analysis(
            "lesion",
            "the error with blocks deleted and permuted, and the gradient along paths of each length",
            "Veit et al. 2016, arXiv:1605.06431, Secs. 4 and 5",
            LesionOptions(),
            analyze_lesion,
        ),
        Analysis(
            "landscape",
            "the loss around the weights along filter-normalized directions, and its curvature",
            "Li et al. 2018, arXiv:1712.09913",
            LandscapeOptions(),
            analyze_landscape,
        ),
        Analysis(
            "attribution",
            "the pixels that support a class: Grad-CAM, integrated gradients, occlusion",
            "Selvaraju et al. 2017, arXiv:1610.02391; Sundararajan et al. 2017, arXiv:1703.01365; "
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            AttributionOptions(),
            analyze_attribution,
        ),
        Analysis(
            "features",
            "kernels of the first convolution, feature maps of any layer for one image, and dead channels",
            "Zeiler and Fergus 2014, arXiv:1311.2901",
            FeatureOptions(),
            analyze_features,
        ),
        Analysis(
            "similarity",
            "similarity between the layers of one or two networks: linear CKA on the same images",
            "Kornblith et al. 2019, arXiv:1905.00414",
            SimilarityOptions(),
            run_jointly=analyze_similarity,
        ),
        Analysis(
            "nearest",
            "nearest neighbors in a layer's features, and how often they share the class",
            "Krizhevsky et al. 2012, Sec. 6.1",
            NeighborOptions(),
            analyze_neighbors,
        ),
        Analysis(
            "probes",
            "linear probes: the accuracy of a linear classifier on each layer's features",
            "Alain and Bengio 2016, arXiv:1610.01644",
            LinearProbeOptions(),
            analyze_probes,
            targets=frozenset({TargetKind.CLASS, TargetKind.MULTI_HOT, TargetKind.VALUES}),
            needs="one target for a whole image",
        ),
        Analysis(
            "compare",
            "two networks side by side: training curves, weights, flipped predictions, and a paired test",
            "McNemar 1947, Psychometrika 12",
            CompareOptions(),
            run_jointly=compare_models,
        ),
    )
}


def get_analysis(name: str) -> Analysis:
    """Return the analysis of this name. Raises ValueError with the nearest names."""
    if name not in ANALYSES:
        raise unknown_name("analysis", name, ANALYSES, "`reslab analyze` lists them all")
    return ANALYSES[name]


def run_analysis(name: str, targets: Sequence[AnalysisTarget], overrides: Mapping[str, Any] | None = None) -> list[Any]:
    """Run an analysis and return its results: one for each target, or a single one for all targets together.

    `overrides` replace options of the analysis by name. Raises ValueError for an unknown analysis or option.
    """
    analysis = get_analysis(name)
    if not targets:
        raise invalid("at least one model to analyze", "none")
    options = override_options(analysis, overrides or {})
    check_tasks(analysis, targets)
    if analysis.run is None:
        assert analysis.run_jointly is not None
        return [analysis.run_jointly(targets, options)]
    return [analysis.run(target, options) for target in targets]


def check_tasks(analysis: Analysis, targets: Sequence[AnalysisTarget]) -> None:
    """Raise ValueError, naming the analyses that apply, for a task that the analysis does not; also for several."""
    for target in targets:
        task = target.task.spec
        if task.target not in analysis.targets:
            applicable = ", ".join(other.name for other in ANALYSES.values() if task.target in other.targets)
            required = f"a network for {', '.join(analysis.tasks)}, as {analysis.name} needs {analysis.needs}"
            got = f"{target.name} for {task.name}"
            raise invalid(required, got, next_step=f"analyses for {task.name}: {applicable}")
    tasks = dict.fromkeys(target.task.spec.name for target in targets)
    if len(tasks) > 1:
        raise invalid("networks for one task", ", ".join(tasks), next_step="analyze them one after the other")


def run_each(
    name: str, targets: Sequence[AnalysisTarget], overrides: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, str]]:
    """Run an analysis on every target that supports it; return the results, and the errors of the others by name.

    Raises ValueError if no target supports it.
    """
    if get_analysis(name).run is None or len(targets) < 2:
        return run_analysis(name, targets, overrides), {}
    check_tasks(get_analysis(name), targets)
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
    """Return the options of an analysis with some overridden. Raises ValueError with the nearest for an unknown one."""
    return override(analysis.options, overrides, kind=f"option of {analysis.name}")
