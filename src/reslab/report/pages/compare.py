"""The page of `reslab runs --html`: the curves and metrics of several runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from reslab.metrics.intervals import mcnemar_p_value, paired_t_p_value
from reslab.report.colors import NETWORK_COLORS, network_color
from reslab.report.format import format_duration, format_metric, format_metric_spread, format_number, pluralize
from reslab.report.pages.components import metric_panel
from reslab.report.series import Curve, first_eval_series, train_series
from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK, LOSS, Metric, find_task

_EVAL_CAPTION = "On the validation or test images."
_TRAIN_CAPTION = "On the augmented training images."
SIGNIFICANCE = 0.05
NO_TEST_TEXT = (
    "no paired test applies: it needs the same images, and at least two seeds of each (--seeds) or the predictions of "
    "single runs"
)


@dataclass(frozen=True)
class ComparedRun:
    """One run: its log and final metrics, None where it has not finished; `value` is that of the task's first metric.

    Runs of one `group` differ only in their seed; an empty group is that of the run alone. `correct` says of each image
    of the evaluation split, which `images` identifies, whether the run classifies it correctly.
    """

    name: str
    model: str
    data: str
    recipe: str
    log: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    task: str = DEFAULT_TASK
    value: float | None = None
    loss: float | None = None
    train_seconds: float | None = None
    group: str = ""
    images: str = ""
    correct: Sequence[bool] = ()

    @property
    def metric(self) -> Metric:
        """The metric that the runs are compared by."""
        return find_task(self.task).selection_metric


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
        **_run_table(page.runs),
        "caption": "The metrics of each run's selected weights, on its validation or test images.",
    }


def compare_summary_text(runs: Sequence[ComparedRun]) -> str:
    """Return the best run, or group of seeds, where paired tests find one, and what they found otherwise.

    A winner is significantly better than every other one, at 5 % over all pairs (Bonferroni).
    """
    finished = [run for run in runs if run.value is not None]
    if not finished:
        return f"{pluralize(len(runs), 'run')}, none of them finished."
    if len({run.data for run in finished}) > 1:
        return "These runs used different data: their metrics are not comparable."
    if len({run.task for run in finished}) > 1:
        return "These runs have different tasks: their metrics are not comparable."
    groups = _group_finished(finished)
    first, metric = groups[0], finished[0].metric
    if len(groups) == 1:
        return f"{first.name}: {metric.title} {first.text}."
    tests = [compare_groups(first, other) for other in groups[1:]]
    alpha = SIGNIFICANCE / math.comb(len(groups), 2)
    second, test = groups[1], tests[0]
    lead_text = f"{_difference_text(metric, test.difference)} than {second.name}"
    if all(other.difference > 0 and other.p_value is not None and other.p_value < alpha for other in tests):
        best = f"{first.name} has the {metric.superlative} {metric.title}"
        return f"{best}, {first.text}, {lead_text} ({test.describe()})."
    if test.difference == 0:
        return f"{first.name} and {second.name} have the same {metric.title}, {first.text}."
    if test.p_value is None:
        return f"No winner: {first.name} reaches {first.text}, {lead_text}, but {NO_TEST_TEXT}."
    others_text = "" if len(groups) == 2 else f" of {len(groups)}"
    return (
        f"No winner{others_text}: {first.name} reaches {first.text}, {lead_text}, which chance can explain "
        f"({test.describe()})."
    )


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one training, in the order of their seeds."""

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def metric(self) -> Metric:
        """The metric that the runs are compared by."""
        return self.runs[0].metric

    @property
    def values(self) -> list[float]:
        """The metric of each run."""
        return [run.value or 0.0 for run in self.runs]

    @property
    def score(self) -> float:
        """The mean of the metric, with the sign for which higher is better."""
        return self.metric.score(fmean(self.values))

    @property
    def text(self) -> str:
        """The metric of one run, or the mean with its standard deviation and the number of seeds."""
        mean, values = fmean(self.values), self.values
        if len(values) == 1:
            return format_metric(self.metric, mean)
        return format_metric_spread(self.metric, mean, stdev(values), len(values))


def _metric_heading(runs: Sequence[ComparedRun]) -> str:
    columns = {run.metric.column for run in runs}
    return columns.pop() if len(columns) == 1 else "metric"


def _difference_text(metric: Metric, difference: float) -> str:
    """Return how much better a value is: `1.20 points higher`, `0.31 lower`."""
    size = f"{100 * difference:.2f} points" if metric.is_fraction else format_number(difference, 3)
    return f"{size} {'higher' if metric.higher_is_better else 'lower'}"


@dataclass(frozen=True)
class PairedResult:
    """The difference of two groups of runs, and the p-value of a paired test; None where none applies."""

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
        return PairedResult(first.score - second.score)
    metric = first.metric
    values = [[metric.score(run.value or 0.0) for run in group.runs if run.seed in seeds] for group in (first, second)]
    test = f"paired t-test over {pluralize(len(seeds), 'seed')}"
    return PairedResult(fmean(values[0]) - fmean(values[1]), paired_t_p_value(*values), test)


def _compare_images(first: ComparedRun, second: ComparedRun) -> PairedResult:
    difference = first.metric.score(first.value or 0.0) - second.metric.score(second.value or 0.0)
    if not first.correct or first.images != second.images or len(first.correct) != len(second.correct):
        return PairedResult(difference)
    pairs = list(zip(first.correct, second.correct, strict=True))
    p_value = mcnemar_p_value(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    return PairedResult(difference, p_value, f"exact McNemar test on {pluralize(len(pairs), 'image')}")


def _group_finished(finished: Sequence[ComparedRun]) -> list[RunGroup]:
    """Return the groups by the mean of their metric, the best first; a seed counts once."""
    by_name: dict[str, dict[int, ComparedRun]] = {}
    for run in finished:
        by_name.setdefault(run.group or run.name, {}).setdefault(run.seed, run)
    groups = [
        RunGroup(name, tuple(run for _, run in sorted(by_seed.items(), key=lambda pair: pair[0])))
        for name, by_seed in by_name.items()
    ]
    return sorted(groups, key=lambda group: -group.score)


def _curve_panels(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return the metrics and the loss, evaluated beside training; both panels of a metric share their y axis."""
    from reslab.report.plots.curves import plot_metric, y_limits

    panels = []
    tasks = [find_task(name) for name in dict.fromkeys(run.task for run in runs)]
    metrics = dict.fromkeys(metric for task in tasks for metric in (task.selection_metric, *task.train_metrics))
    for metric in dict.fromkeys((*metrics, LOSS)):
        name, unit = metric.title, "%" if metric.is_fraction else ""
        evaluated = run_curves(runs, metric.name, split="eval")
        trained = run_curves(runs, metric.name, split="train")
        limits = y_limits([*evaluated, *trained], unit)
        for title, caption, curves in (
            (name[:1].upper() + name[1:], _EVAL_CAPTION, evaluated),
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


def _run_table(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """Return columns and a row for each run; no column of losses where finished runs have none."""
    heading = _metric_heading(runs)
    rows = [{name.format(metric=heading): text for name, text in _run_cells(run).items()} for run in runs]
    is_finished = any(run.value is not None for run in runs)
    left_out = {"loss"} if is_finished and all(run.loss is None for run in runs) else set()
    columns = [name for name in rows[0] if name not in left_out]
    return {"columns": columns, "rows": [[row[name] for name in columns] for row in rows]}


def _run_cells(run: ComparedRun) -> dict[str, str]:
    return {
        "run": run.name,
        "model": run.model,
        "data": run.data,
        "recipe": run.recipe,
        "seed": str(run.seed),
        "{metric}": format_metric(run.metric, run.value),
        "loss": format_number(run.loss, 3),
        "training time": format_duration(run.train_seconds),
    }
