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

    `summary` explains the suggestion or its absence, `next_command` is to be pasted. The smoothed loss is lowest at
    `lowest_loss_lr` and rises from `rise_lr` on; None where it does not. `diverged` says that the test stopped early.
    """

    title: str
    summary: str
    lrs: Sequence[float]
    losses: Sequence[float]
    smoothed_losses: Sequence[float]
    suggested_lr: float | None = None
    lowest_loss_lr: float | None = None
    rise_lr: float | None = None
    diverged: bool = False
    next_command: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def lr_finder_context(page: LRFinderPage) -> dict[str, Any]:
    """Return the values of `curves.html`. Raises ValueError where there is no step, or the lengths differ."""
    if not page.lrs or not len(page.lrs) == len(page.losses) == len(page.smoothed_losses):
        got = f"{len(page.lrs)}, {len(page.losses)} and {len(page.smoothed_losses)}"
        raise invalid("as many losses and smoothed losses as learning rates, at least one", got)
    from reslab.report.plots.curves import plot_lr_finder

    figure = plot_lr_finder(
        page.lrs,
        page.losses,
        page.smoothed_losses,
        marks={"suggested": page.suggested_lr, "lowest": page.lowest_loss_lr, "rises": page.rise_lr},
    )
    panel = make_panel(
        figure,
        "lr-finder",
        title="Loss against learning rate",
        alt_text=f"Loss against learning rate, on a logarithmic scale. {page.summary}",
        caption=_lr_finder_caption(page),
    )
    command = {"next command": page.next_command} if page.next_command else {}
    return {
        "kind": "Learning-rate range test",
        "title": page.title,
        "summary": page.summary,
        "metadata": {str(name): str(value) for name, value in {**page.metadata, **command}.items()},
        "tiles": _lr_tiles(page),
        "heading": "Range test",
        "curves": [panel],
        "columns": [],
        "rows": [],
        "caption": "",
    }


def _lr_tiles(page: LRFinderPage) -> list[dict[str, Any]]:
    suggested = "none" if page.suggested_lr is None else f"{page.suggested_lr:.2g}"
    has_risen = "the last before the loss rises" if page.rise_lr else "where the fall is done"
    note = "no clear suggestion" if page.suggested_lr is None else has_risen
    rates = (
        ("lowest loss at", page.lowest_loss_lr, "of the smoothed loss"),
        ("loss rises from", page.rise_lr, "of the smoothed loss"),
    )
    tiles = [make_tile(name, f"{lr:.2g}", note) for name, lr, note in rates if lr is not None]
    steps = make_tile("steps", format_int(len(page.lrs)), "one for each learning rate")
    return [make_tile("suggested learning rate", suggested, note), *tiles, steps]


def _lr_finder_caption(page: LRFinderPage) -> str:
    ending = (
        "The test stopped when the loss diverged." if page.diverged else "The test reached the maximum learning rate."
    )
    return f"Pale: loss of each step. Strong: smoothed. {ending} (Smith 2017, Sec. 3.3.)"
