"""Everything that the page of a rate search names.

The page of `reslab lr-find`: the loss against rising learning rates, and which rate that suggests.

The loss against the learning rate, with the rate that is suggested.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reslab.report.format import format_int
from reslab.report.pages.run import make_tile
from reslab.report.plots.export import render_inline_svg
from reslab.report.plots.style import BLUE, MUTED, VERMILION, add_legend_above, make_figure, plot_style
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class LRFinderPage:
    """What the page shows: `losses` and `smoothed` a value for each of `rates`; `suggestion` where the smoothed loss
    falls steepest and `lowest` where it is least, None where it never fell; `stopped_early` that it diverged."""

    title: str
    lrs: Sequence[float]
    losses: Sequence[float]
    smoothed_losses: Sequence[float]
    suggested_lr: float | None = None
    lowest_loss_lr: float | None = None
    diverged: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


_FIGURE_INCHES = (7.2, 3.6)
_MAX_LOSS_RATIO = 1.6


def plot_lr_finder(page: LRFinderPage) -> Figure:
    """Each step's loss pale, its mean strong, against the rate (logarithmic); what diverges leaves the panel."""
    with plot_style():
        figure, axes = make_figure(*_FIGURE_INCHES)
        axes.plot(page.lrs, page.losses, color=BLUE, alpha=0.3, linewidth=0.9)
        handles = [axes.plot(page.lrs, page.smoothed_losses, color=BLUE, linewidth=1.9)[0]]
        labels = ["loss, smoothed"]
        for lr, color, name in ((page.suggested_lr, VERMILION, "steepest"), (page.lowest_loss_lr, MUTED, "lowest")):
            if lr is not None:
                handles.append(axes.axvline(lr, color=color, linewidth=1.4, linestyle=(0, (3.2, 2.0))))
                labels.append(f"{name}, {lr:.2g}")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
        lowest_loss, first_loss = min(page.smoothed_losses), page.smoothed_losses[0]
        loss_limit = max(_MAX_LOSS_RATIO * first_loss, lowest_loss + 1e-3)
        if math.isfinite(loss_limit) and max(page.losses) > loss_limit:
            axes.set_ylim(max(0.0, lowest_loss - 0.1 * (loss_limit - lowest_loss)), loss_limit)
        add_legend_above(axes, handles, labels)
        return figure


def lr_finder_context(page: LRFinderPage) -> dict[str, Any]:
    """The values of `curves.html`, by name. Raises ValueError where there is no step, or lengths differ."""
    if not page.lrs or not len(page.lrs) == len(page.losses) == len(page.smoothed_losses):
        got = f"{len(page.lrs)}, {len(page.losses)} and {len(page.smoothed_losses)}"
        raise invalid("as many losses and means as rates, at least one", got)
    summary = lr_finder_text(page)
    alt_text = f"Loss against the learning rate, on a logarithmic scale. {summary}"
    panel = {
        "title": "Loss at rising learning rates",
        "svg": Markup(render_inline_svg(plot_lr_finder(page), "rates", alt_text)),
        "caption": _lr_finder_caption(page),
    }
    return {
        "kind": "Learning-rate range test",
        "title": page.title,
        "summary": summary,
        "metadata": {str(name): str(value) for name, value in page.metadata.items()},
        "tiles": _lr_tiles(page),
        "curves": [panel],
        "columns": [],
        "rows": [],
        "caption": "",
    }


def lr_finder_text(page: LRFinderPage) -> str:
    """One sentence: the rate to try, or that there is none."""
    if page.suggested_lr is None:
        return "The loss never fell: no rate is suggested. Try lower rates, or more steps."
    return (
        f"The loss falls steepest at a rate of {page.suggested_lr:.2g}: a place to start from, not yet the best rate."
    )


def _lr_tiles(page: LRFinderPage) -> list[dict[str, Any]]:
    columns = (
        ("suggested rate", page.suggested_lr, "steepest fall"),
        ("lowest loss at", page.lowest_loss_lr, "of the smoothed loss"),
    )
    tiles = [make_tile(name, f"{lr:.2g}", note) for name, lr, note in columns if lr is not None]
    return [*tiles, make_tile("steps", format_int(len(page.lrs)), "one a rate")]


def _lr_finder_caption(page: LRFinderPage) -> str:
    ending = "It stopped where the loss diverged." if page.diverged else "It went to the highest rate."
    return f"Pale: the loss of each step. Strong: its mean with its neighbours. {ending} (Smith 2017, Sec. 3.3.)"
