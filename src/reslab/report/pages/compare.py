"""The page of `reslab runs --html`: the curves and metrics of several runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.report.colors import NETWORK_COLORS, network_color
from reslab.report.format import format_duration, format_number, format_percent, pluralize
from reslab.report.pages.components import metric_panel
from reslab.report.series import Curve, first_eval_series, train_series
from reslab.spec.errors import invalid

_COLUMNS = ("run", "model", "data", "recipe", "seed", "accuracy", "loss", "training time")
_EVAL_CAPTION = "On the validation or test images."
_TRAIN_CAPTION = "On the augmented training images."


@dataclass(frozen=True)
class ComparedRun:
    """One run: its log and final metrics, None where it has not finished."""

    name: str
    model: str
    data: str
    recipe: str
    log: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    top1: float | None = None
    loss: float | None = None
    train_seconds: float | None = None


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
    """Return one sentence: the most accurate run and its lead, where the runs are comparable."""
    finished = sorted((run for run in runs if run.top1 is not None), key=lambda run: -(run.top1 or 0.0))
    if not finished:
        return f"{pluralize(len(runs), 'run')}, none of them finished."
    if len({run.data for run in finished}) > 1:
        return "These runs used different data: their accuracies are not comparable."
    first = finished[0]
    if len(finished) == 1:
        return f"{first.name} reaches {format_percent(first.top1)} accuracy."
    second = finished[1]
    gap_points = 100 * ((first.top1 or 0.0) - (second.top1 or 0.0))
    if gap_points == 0:
        return f"{first.name} and {second.name} are equally accurate, at {format_percent(first.top1)}."
    lead = f"{gap_points:.2f} points above {second.name}"
    return f"{first.name} is the most accurate, at {format_percent(first.top1)}, {lead}."


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
