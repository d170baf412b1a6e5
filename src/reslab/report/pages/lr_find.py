"""The page of `reslab lr-find`: a learning-rate range test (Smith 2017, Sec. 3.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reslab.report.format import format_int
from reslab.report.pages.components import make_panel, make_tile
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class LRFinderPage:
    """The values of the page: loss and smoothed loss at each learning rate.

    `suggested_lr` is where the smoothed loss falls steepest and `lowest_loss_lr` where it is lowest; both are None
    where it never fell. `diverged` says that the test stopped early.
    """

    title: str
    lrs: Sequence[float]
    losses: Sequence[float]
    smoothed_losses: Sequence[float]
    suggested_lr: float | None = None
    lowest_loss_lr: float | None = None
    diverged: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


def lr_finder_context(page: LRFinderPage) -> dict[str, Any]:
    """Return the values of `curves.html`. Raises ValueError where there is no step, or the lengths differ."""
    if not page.lrs or not len(page.lrs) == len(page.losses) == len(page.smoothed_losses):
        got = f"{len(page.lrs)}, {len(page.losses)} and {len(page.smoothed_losses)}"
        raise invalid("as many losses and smoothed losses as learning rates, at least one", got)
    from reslab.report.plots.curves import plot_lr_finder

    summary = lr_finder_text(page)
    figure = plot_lr_finder(
        page.lrs, page.losses, page.smoothed_losses, suggested_lr=page.suggested_lr, lowest_loss_lr=page.lowest_loss_lr
    )
    panel = make_panel(
        figure,
        "lr-finder",
        title="Loss against learning rate",
        alt_text=f"Loss against learning rate, on a logarithmic scale. {summary}",
        caption=_lr_finder_caption(page),
    )
    return {
        "kind": "Learning-rate range test",
        "title": page.title,
        "summary": summary,
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": _lr_tiles(page),
        "heading": "Range test",
        "curves": [panel],
        "columns": [],
        "rows": [],
        "caption": "",
    }


def lr_finder_text(page: LRFinderPage) -> str:
    """Return one sentence: the learning rate to try, or that there is none."""
    if page.suggested_lr is None:
        return "The loss never fell, so no learning rate is suggested. Try lower rates or more steps."
    return f"The loss falls steepest at a learning rate of {page.suggested_lr:.2g}: a starting point, not yet the best."


def _lr_tiles(page: LRFinderPage) -> list[dict[str, Any]]:
    rates = (
        ("suggested learning rate", page.suggested_lr, "steepest fall of the smoothed loss"),
        ("lowest loss at", page.lowest_loss_lr, "of the smoothed loss"),
    )
    tiles = [make_tile(name, f"{lr:.2g}", note) for name, lr, note in rates if lr is not None]
    return [*tiles, make_tile("steps", format_int(len(page.lrs)), "one for each learning rate")]


def _lr_finder_caption(page: LRFinderPage) -> str:
    ending = (
        "The test stopped when the loss diverged." if page.diverged else "The test reached the maximum learning rate."
    )
    return f"Pale: loss of each step. Strong: smoothed. {ending} (Smith 2017, Sec. 3.3.)"
