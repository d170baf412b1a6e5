"""The page of `reslab runs --html`: the curves and metrics of several runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from reslab.metrics.intervals import mcnemar_p_value, paired_t_p_value
from reslab.report.colors import NETWORK_COLORS, network_color
from reslab.report.format import format_duration, format_number, format_percent, format_spread, pluralize
from reslab.report.pages.components import metric_panel
from reslab.report.series import Curve, first_eval_series, train_series
from reslab.spec.errors import invalid

_COLUMNS = ("run", "model", "data", "recipe", "seed", "accuracy", "loss", "training time")
_EVAL_CAPTION = "On the validation or test images."
_TRAIN_CAPTION = "On the augmented training images."
SIGNIFICANCE = 0.05
NO_TEST_TEXT = (
    "no paired test applies: it needs the same images, and at least two seeds of each (--seeds) or the predictions of "
    "single runs"
)


@dataclass(frozen=True)
class ComparedRun:
    """One run: its log and final metrics, None where it has not finished.

    Runs of one `group` differ only in their seed; an empty group is that of the run alone. `correct` says of each image
    of the evaluation split, which `images` identifies, whether the run classifies it correctly.
    """

    name: str
    model: str
    data: str
    recipe: str
    log: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    top1: float | None = None
    loss: float | None = None
    train_seconds: float | None = None
    group: str = ""
    images: str = ""
    correct: Sequence[bool] = ()


@dataclass(frozen=True)
class ComparePage:
    """The values of the page: at least one run."""

    title: str
    runs: Sequence[ComparedRun]
    metadata: Mapping[str, str] = field(default_factory=dict)


def compare_context(page: ComparePage) -> dict[str, Any]:
    """Return the values of `curves.html`. Raises ValueError where there is no run."""
    if not page.runs:
        raise invalid("at least one run", "none")
    return {
        "kind": "Run comparison",
        "title": page.title,
        "summary": compare_summary_text(page.runs),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": [],
        "heading": "Training curves",
        "curves": _curve_panels(page.runs),
        "columns": _COLUMNS,
        "rows": [_run_row(run) for run in page.runs],
        "caption": "Accuracy and loss of each run's selected weights, on its validation or test images.",
    }


def compare_summary_text(runs: Sequence[ComparedRun]) -> str:
    """Return the most accurate run, or group of seeds, where paired tests find one, and what they found otherwise.

    A winner is significantly more accurate than every other one, at 5 % over all pairs (Bonferroni).
    """
    finished = sorted((run for run in runs if run.top1 is not None), key=lambda run: -(run.top1 or 0.0))
    if not finished:
        return f"{pluralize(len(runs), 'run')}, none of them finished."
    if len({run.data for run in finished}) > 1:
        return "These runs used different data: their accuracies are not comparable."
    groups = _group_finished(finished)
    first = groups[0]
    if len(groups) == 1:
        return f"{first.name} reaches {first.accuracy_text} accuracy."
    tests = [compare_groups(first, other) for other in groups[1:]]
    alpha = SIGNIFICANCE / math.comb(len(groups), 2)
    second, test = groups[1], tests[0]
    lead_text = f"{100 * test.difference:.2f} points above {second.name}"
    if all(other.difference > 0 and other.p_value is not None and other.p_value < alpha for other in tests):
        return f"{first.name} is the most accurate, at {first.accuracy_text}, {lead_text} ({test.describe()})."
    if test.difference == 0:
        return f"{first.name} and {second.name} are equally accurate, at {first.accuracy_text}."
    if test.p_value is None:
        return f"No winner: {first.name} reaches {first.accuracy_text}, {lead_text}, but {NO_TEST_TEXT}."
    others_text = "" if len(groups) == 2 else f" of {len(groups)}"
    return (
        f"No winner{others_text}: {first.name} reaches {first.accuracy_text}, {lead_text}, which chance can explain "
        f"({test.describe()})."
    )


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one training, in the order of their seeds."""

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def mean(self) -> float:
        """The mean accuracy."""
        return fmean(run.top1 or 0.0 for run in self.runs)

    @property
    def accuracy_text(self) -> str:
        """The accuracy of one run, or the mean with its standard deviation and the number of seeds."""
        values = [run.top1 or 0.0 for run in self.runs]
        return format_percent(self.mean) if len(values) == 1 else format_spread(self.mean, stdev(values), len(values))


@dataclass(frozen=True)
class PairedResult:
    """The accuracy of one group minus that of another, and the p-value of a paired test; None where none applies."""

    difference: float
    p_value: float | None = None
    test: str = ""

    def describe(self) -> str:
        """Return the test with its p-value: `exact McNemar test on 153 images, p = 0.85`."""
        p_value = self.p_value or 0.0
        return f"{self.test}, p {'< 0.0001' if p_value < 0.0001 else f'= {p_value:.2g}'}"


def compare_groups(first: RunGroup, second: RunGroup) -> PairedResult:
    """Return the paired t-test over the seeds that both have, or McNemar's test of two single runs on the same images.

    Without either, or where the test is undefined, only the difference of the means, over the shared seeds if any.
    """
    seeds = sorted({run.seed for run in first.runs} & {run.seed for run in second.runs})
    if len(first.runs) == len(second.runs) == 1:
        return _compare_images(first.runs[0], second.runs[0])
    if not seeds:
        return PairedResult(first.mean - second.mean)
    values = [[run.top1 or 0.0 for run in group.runs if run.seed in seeds] for group in (first, second)]
    test = f"paired t-test over {pluralize(len(seeds), 'seed')}"
    return PairedResult(fmean(values[0]) - fmean(values[1]), paired_t_p_value(*values), test)


def _compare_images(first: ComparedRun, second: ComparedRun) -> PairedResult:
    difference = (first.top1 or 0.0) - (second.top1 or 0.0)
    if not first.correct or first.images != second.images or len(first.correct) != len(second.correct):
        return PairedResult(difference)
    pairs = list(zip(first.correct, second.correct, strict=True))
    p_value = mcnemar_p_value(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    return PairedResult(difference, p_value, f"exact McNemar test on {pluralize(len(pairs), 'image')}")


def _group_finished(finished: Sequence[ComparedRun]) -> list[RunGroup]:
    """Return the groups by their mean accuracy, the best first; a seed counts once."""
    by_name: dict[str, dict[int, ComparedRun]] = {}
    for run in finished:
        by_name.setdefault(run.group or run.name, {}).setdefault(run.seed, run)
    groups = [
        RunGroup(name, tuple(run for _, run in sorted(by_seed.items(), key=lambda pair: pair[0])))
        for name, by_seed in by_name.items()
    ]
    return sorted(groups, key=lambda group: -group.mean)


def _curve_panels(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return accuracy and loss, evaluated beside training; both panels of a metric share their y axis."""
    from reslab.report.plots.curves import plot_metric, y_limits

    panels = []
    for key, name, unit in (("top1", "accuracy", "%"), ("loss", "loss", "")):
        evaluated = run_curves(runs, key, split="eval")
        trained = run_curves(runs, key, split="train")
        limits = y_limits([*evaluated, *trained], unit)
        for title, caption, curves in (
            (name.capitalize(), _EVAL_CAPTION, evaluated),
            (f"Training {name}", _TRAIN_CAPTION, trained),
        ):
            if curves:
                anchor = title.lower().replace(" ", "-")
                panels.append(metric_panel(plot_metric(curves, unit, limits=limits), anchor, title, caption))
    return panels


def run_curves(runs: Sequence[ComparedRun], key: str, *, split: str) -> list[Curve]:
    """Return the runs' curves of a metric on the evaluated split (`eval`) or in training (`train`), where logged.

    A run has one color in every plot; from the fifth run on the lines are dashed.
    """
    curves = [
        Curve(
            train_series(run.log, key) if split == "train" else first_eval_series(run.log, key),
            run.name,
            network_color(index),
            dashed=index >= len(NETWORK_COLORS),
            is_noisy=split == "train",
        )
        for index, run in enumerate(runs)
    ]
    return [curve for curve in curves if curve.series]


def _run_row(run: ComparedRun) -> list[str]:
    metrics = [format_percent(run.top1), format_number(run.loss, 3), format_duration(run.train_seconds)]
    return [run.name, run.model, run.data, run.recipe, str(run.seed), *metrics]
