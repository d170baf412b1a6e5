"""Everything that the page of several runs names.

The page of `reslab runs --page`: several runs, their curves laid over each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.report.format import number, percent, plural, seconds
from reslab.report.pages.run import panel
from reslab.report.plots.curves import Curve, accuracy_figure, loss_figure
from reslab.report.plots.style import SERIES
from reslab.report.series import Series, eval_series, splits, train_series
from reslab.spec.errors import refuse


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
    facts: Mapping[str, str] = field(default_factory=dict)


_COLUMNS = ("run", "network", "data", "recipe", "seed", "accuracy", "loss", "training time")
_HELD_OUT = "On images held out from training."


def compare_parts(page: ComparePage) -> dict[str, Any]:
    """The values of `curves.html`, by name. Raises ValueError where there is no run."""
    if not page.runs:
        raise refuse("at least one run", "none")
    return {
        "kind": "Runs compared",
        "title": page.title,
        "summary": compare_words(page.runs),
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        "tiles": [],
        "curves": _panels(page.runs),
        "columns": _COLUMNS,
        "rows": [_row(run) for run in page.runs],
        "caption": "Accuracy and loss are those of the weights that each run kept, on the images it held out.",
    }


def compare_words(runs: Sequence[ComparedRun]) -> str:
    """One sentence: which run is most accurate, and by how much, where they can be held against each other."""
    ended = sorted((run for run in runs if run.top1 is not None), key=lambda run: -(run.top1 or 0.0))
    if not ended:
        return f"{plural(len(runs), 'run')}, none of which has ended."
    best = f"{ended[0].name} is the most accurate, at {percent(ended[0].top1)}"
    if len({run.data for run in ended}) > 1:
        return "These runs were on different data: their accuracies are not to be held against each other."
    if len(ended) == 1:
        return f"{ended[0].name} ended at {percent(ended[0].top1)}."
    behind = 100 * ((ended[0].top1 or 0.0) - (ended[1].top1 or 0.0))
    if behind == 0:
        return f"{ended[0].name} and {ended[1].name} are level at {percent(ended[0].top1)}."
    return f"{best}; {ended[1].name} follows {behind:.2f} points behind."


def _panels(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Held-out accuracy and loss, then the training's; a run has one colour, every further four are dashed."""
    found = []
    for title, anchor, value, held_out in (
        ("Accuracy", "accuracy", "top1", True),
        ("Loss", "loss", "loss", True),
        ("Training accuracy", "training-accuracy", "top1", False),
        ("Training loss", "training-loss", "loss", False),
    ):
        curves = [run_curve(run, place, value, held_out) for place, run in enumerate(runs)]
        if any(curve.line for curve in curves):
            draw = accuracy_figure if value == "top1" else loss_figure
            words = _HELD_OUT if held_out else "On the images each run learns from, with its augmentation."
            found.append(panel(title, draw(curves), words, anchor))
    return found


def run_curve(run: ComparedRun, place: int, value: str, held_out: bool) -> Curve:
    """A run's `loss` or `top1` against epochs, held-out or of the training, in the colour of its place."""
    line = _held_out(run, value) if held_out else train_series(run.log, value)
    return Curve(line, run.name, place, dashed=place >= len(SERIES))


def _held_out(run: ComparedRun, value: str) -> Series:
    names = splits(run.log)
    return eval_series(run.log, names[0], value) if names else Series("held-out", (), ())


def _row(run: ComparedRun) -> list[str]:
    end = [percent(run.top1), number(run.loss, 3), seconds(run.train_seconds)]
    return [run.name, run.model, run.data, run.recipe, str(run.seed), *end]
