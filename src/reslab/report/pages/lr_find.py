"""Everything that the page of a rate search names."""

from typing import Any

from markupsafe import Markup

from reslab.report.figures.rates import rate_search_figure
from reslab.report.format import count
from reslab.report.parts.scores import tile
from reslab.report.plots.export import svg
from reslab.report.rate_page import RatePage
from reslab.spec.errors import refuse


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
