"""Everything that the page of several runs names.

The page of `reslab runs --html`: several runs, their curves laid over each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.report.format import format_duration, format_number, format_percent, pluralize
from reslab.report.pages.run import panel_context
from reslab.report.plots.curves import Curve, plot_accuracy, plot_loss
from reslab.report.plots.style import PALETTE
from reslab.report.series import Series, eval_series, eval_splits, train_series
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class ComparedRun:
    """One run: its log, and how it ended; None (top1, train_seconds) where it has not."""

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
    """What the page shows: at least one run."""

    title: str
    runs: Sequence[ComparedRun]
    metadata: Mapping[str, str] = field(default_factory=dict)


_COLUMNS = ("run", "network", "data", "recipe", "seed", "accuracy", "loss", "training time")
_HELD_OUT_CAPTION = "On images held out from training."


def compare_context(page: ComparePage) -> dict[str, Any]:
    """The values of `curves.html`, by name. Raises ValueError where there is no run."""
    if not page.runs:
        raise invalid("at least one run", "none")
    return {
        "kind": "Runs compared",
        "title": page.title,
        "summary": compare_summary_text(page.runs),
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": [],
        "curves": _curve_panels(page.runs),
        "columns": _COLUMNS,
        "rows": [_run_row(run) for run in page.runs],
        "caption": "Accuracy and loss are those of the weights that each run kept, on the images it held out.",
    }


def compare_summary_text(runs: Sequence[ComparedRun]) -> str:
    """One sentence: which run is most accurate, and by how much, where they can be held against each other."""
    finished = sorted((run for run in runs if run.top1 is not None), key=lambda run: -(run.top1 or 0.0))
    if not finished:
        return f"{pluralize(len(runs), 'run')}, none of which has ended."
    best_text = f"{finished[0].name} is the most accurate, at {format_percent(finished[0].top1)}"
    if len({run.data for run in finished}) > 1:
        return "These runs were on different data: their accuracies are not to be held against each other."
    if len(finished) == 1:
        return f"{finished[0].name} ended at {format_percent(finished[0].top1)}."
    gap_points = 100 * ((finished[0].top1 or 0.0) - (finished[1].top1 or 0.0))
    if gap_points == 0:
        return f"{finished[0].name} and {finished[1].name} are level at {format_percent(finished[0].top1)}."
    return f"{best_text}; {finished[1].name} follows {gap_points:.2f} points behind."


def _curve_panels(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Held-out accuracy and loss, then the training's; a run has one colour, every further four are dashed."""
    panels = []
    for title, anchor, key, held_out in (
        ("Accuracy", "accuracy", "top1", True),
        ("Loss", "loss", "loss", True),
        ("Training accuracy", "training-accuracy", "top1", False),
        ("Training loss", "training-loss", "loss", False),
    ):
        curves = [run_curve(run, color_index, key, held_out) for color_index, run in enumerate(runs)]
        if any(curve.series for curve in curves):
            plot = plot_accuracy if key == "top1" else plot_loss
            caption = _HELD_OUT_CAPTION if held_out else "On the images each run learns from, with its augmentation."
            panels.append(panel_context(title, plot(curves), caption, anchor))
    return panels


def run_curve(run: ComparedRun, color_index: int, key: str, held_out: bool) -> Curve:
    """A run's `loss` or `top1` against epochs, held-out or of the training, in the colour of its place."""
    series = _held_out_series(run, key) if held_out else train_series(run.log, key)
    return Curve(series, run.name, color_index, dashed=color_index >= len(PALETTE))


def _held_out_series(run: ComparedRun, key: str) -> Series:
    split_names = eval_splits(run.log)
    return eval_series(run.log, split_names[0], key) if split_names else Series("held-out", (), ())


def _run_row(run: ComparedRun) -> list[str]:
    results = [format_percent(run.top1), format_number(run.loss, 3), format_duration(run.train_seconds)]
    return [run.name, run.model, run.data, run.recipe, str(run.seed), *results]
