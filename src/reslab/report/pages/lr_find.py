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

from reslab.report.format import count
from reslab.report.pages.run import tile
from reslab.report.plots.export import svg
from reslab.report.plots.style import BLUE, MUTED, VERMILION, empty_panel, legend_above, styled
from reslab.spec.errors import refuse


@dataclass(frozen=True)
class RatePage:
    """What the page shows: `losses` and `smoothed` a value for each of `rates`; `suggestion` where the smoothed loss
    falls steepest and `lowest` where it is least, None where it never fell; `stopped_early` that it diverged."""

    title: str
    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggestion: float | None = None
    lowest: float | None = None
    stopped_early: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


_INCHES = (7.2, 3.6)
_SHOWN = 1.6


def rate_search_figure(page: RatePage) -> Figure:
    """Each step's loss pale, its mean strong, against the rate (logarithmic); what diverges leaves the panel."""
    with styled():
        figure, axes = empty_panel(*_INCHES)
        axes.plot(page.rates, page.losses, color=BLUE, alpha=0.3, linewidth=0.9)
        handles = [axes.plot(page.rates, page.smoothed, color=BLUE, linewidth=1.9)[0]]
        labels = ["loss, smoothed"]
        for rate, colour, name in ((page.suggestion, VERMILION, "steepest"), (page.lowest, MUTED, "lowest")):
            if rate is not None:
                handles.append(axes.axvline(rate, color=colour, linewidth=1.4, linestyle=(0, (3.2, 2.0))))
                labels.append(f"{name}, {rate:.2g}")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
        low, start = min(page.smoothed), page.smoothed[0]
        top = max(_SHOWN * start, low + 1e-3)
        if math.isfinite(top) and max(page.losses) > top:
            axes.set_ylim(max(0.0, low - 0.1 * (top - low)), top)
        legend_above(axes, handles, labels)
        return figure


def rate_parts(page: RatePage) -> dict[str, Any]:
    """The values of `curves.html`, by name. Raises ValueError where there is no step, or lengths differ."""
    if not page.rates or not len(page.rates) == len(page.losses) == len(page.smoothed):
        got = f"{len(page.rates)}, {len(page.losses)} and {len(page.smoothed)}"
        raise refuse("as many losses and means as rates, at least one", got)
    words = rate_search_words(page)
    label = f"Loss against the learning rate, on a logarithmic scale. {words}"
    figure = {
        "title": "Loss at rising learning rates",
        "svg": Markup(svg(rate_search_figure(page), "rates", label)),
        "words": _caption(page),
    }
    return {
        "kind": "Learning-rate range test",
        "title": page.title,
        "summary": words,
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        "tiles": _tiles(page),
        "curves": [figure],
        "columns": [],
        "rows": [],
        "caption": "",
    }


def rate_search_words(page: RatePage) -> str:
    """One sentence: the rate to try, or that there is none."""
    if page.suggestion is None:
        return "The loss never fell: no rate is suggested. Try lower rates, or more steps."
    return f"The loss falls steepest at a rate of {page.suggestion:.2g}: a place to start from, not yet the best rate."


def _tiles(page: RatePage) -> list[dict[str, Any]]:
    shown = (
        ("suggested rate", page.suggestion, "steepest fall"),
        ("lowest loss at", page.lowest, "of the smoothed loss"),
    )
    tiles = [tile(name, f"{rate:.2g}", note) for name, rate, note in shown if rate is not None]
    return [*tiles, tile("steps", count(len(page.rates)), "one a rate")]


def _caption(page: RatePage) -> str:
    end = "It stopped where the loss diverged." if page.stopped_early else "It went to the highest rate."
    return f"Pale: the loss of each step. Strong: its mean with its neighbours. {end} (Smith 2017, Sec. 3.3.)"
