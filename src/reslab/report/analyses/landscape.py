"""How the answers to `landscape` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.overlay import tints
from reslab.report.analyses.result import Shown, ShownFigure, ShownTable
from reslab.report.format import number, percent, plural
from reslab.report.plots.landscape import (
    Cells,
    Surface,
    contour_figure,
    convexity_figure,
    is_logarithmic,
    line_figure,
    surface_figure,
    through_weights,
)

Answer = Mapping[str, Any]
_NOT_CONVEX = 0.1


def show(answers: Sequence[Answer]) -> Shown:
    """Contours and heights on the same scale for every network, the line through the weights, curvature as numbers."""
    flat = [answer for answer in answers if answer["dimensions"] == 2]
    figures = _maps(flat) if flat else []
    figures.append(_line(answers))
    cells = [_cells(answer) for answer in flat if len(answer["curvature"]) > 1]
    if cells:
        figures.append(_convexity(cells))
    return Shown(
        "The loss around the weights",
        tuple(landscape_words(answer) for answer in answers),
        tuple(figures),
        (_table(answers),),
    )


def landscape_words(answer: Answer) -> str:
    """The loss at the weights and around them, and what the curvature says."""
    found = [value for row in answer["losses"] for value in row if value is not None]
    words = f"{answer['subject']}: loss {number(answer['loss'], 3)} at the weights"
    if found:
        lowest, highest = min(found), max(found)
        words += f", {number(lowest, 3)} to {number(highest, 3)} on the grid"
    if answer["not_convex"] is not None:
        words += (
            f"; at {percent(answer['not_convex'], 0)} of {plural(len(answer['curvature']), 'point')} the surface is "
            f"far from convex (|smallest / largest eigenvalue of the Hessian| above {_NOT_CONVEX})"
        )
    if answer["largest"]:
        words += f"; the largest eigenvalue at the weights is {number(answer['largest'][0], 3)}"
    if answer["explained"]:
        words += f"; the plane holds {percent(sum(answer['explained']), 1)} of the run's way"
    return words + "."


def _surface(answer: Answer, label: str = "") -> Surface:
    explained = [f" ({percent(share, 0)} of the way)" for share in answer["explained"]] or ["", ""]
    kind = "random direction" if answer["directions"] == "random" else "principal direction"
    way = [(visit["alpha"], visit["beta"]) for visit in answer["trajectory"]]
    return Surface(
        label or answer["subject"],
        answer["alphas"],
        answer["betas"],
        answer["losses"],
        [*way, (0.0, 0.0)] if way else [],
        f"first {kind}{explained[0]}",
        f"second {kind}{explained[-1]}",
    )


def _maps(answers: Sequence[Answer]) -> list[ShownFigure]:
    surfaces = [_surface(answer) for answer in answers]
    scale = " Logarithmic scale." if is_logarithmic(surfaces) else ""
    star = "Star: the weights. "
    way = "Dots: the run's snapshots. " if any(surface.way for surface in surfaces) else ""
    same = "Every network at the same levels." if len(surfaces) > 1 else "Deeper where the loss is higher."
    return [
        ShownFigure(
            contour_figure(surfaces),
            "Lines of equal loss around the weights. " + same,
            "Lines of equal loss",
            star + way + same + scale,
        ),
        ShownFigure(
            surface_figure(surfaces),
            "The loss as a height over the plane of the two directions.",
            "The loss as a height",
            "The same plane and the same losses." + scale,
        ),
    ]


def _line(answers: Sequence[Answer]) -> ShownFigure:
    looks = tints(answers)
    surfaces = [_surface(answer, tint.label) for answer, tint in zip(answers, looks, strict=True)]
    scale = " Logarithmic scale." if is_logarithmic(surfaces) else ""
    where = "line through the weights" if through_weights(surfaces) else "grid's line nearest to the weights"
    label = f"The loss on the {where} along the first direction."
    return ShownFigure(
        line_figure(surfaces, [tint.colour for tint in looks]), label, "The loss along one direction", label + scale
    )


def _cells(answer: Answer) -> Cells:
    ratios = {(bend["alpha"], bend["beta"]): ratio(bend) for bend in answer["curvature"]}
    alphas, betas = sorted({alpha for alpha, _ in ratios}), sorted({beta for _, beta in ratios})
    rows = [[ratios.get((alpha, beta)) for alpha in alphas] for beta in betas]
    return Cells(answer["subject"], alphas, betas, rows)


def ratio(bend: Answer) -> float | None:
    """|smallest / largest eigenvalue|, 0 where none is below 0; None where there is none."""
    if bend["smallest"] is None or not bend["largest"]:
        return None
    return abs(min(bend["smallest"], 0.0) / bend["largest"])


def _convexity(cells: Sequence[Cells]) -> ShownFigure:
    label = "|smallest / largest eigenvalue of the Hessian| over the plane, 0 where none is below 0."
    caption = f"{label} Vermilion: above {_NOT_CONVEX}, far from convex; blue: close to convex."
    return ShownFigure(convexity_figure(cells), label, "Where the surface is not convex", caption)


def _table(answers: Sequence[Answer]) -> ShownTable:
    rows = []
    for answer in answers:
        tops = zip(answer["largest"], answer["largest_errors"], strict=True)
        largest = ", ".join(f"{number(value, 4)} ± {number(bound, 1)}" for value, bound in tops) or "–"
        smallest = number(answer["smallest"][0], 3) if answer["smallest"] else "–"
        share = percent(answer["not_convex"], 0)
        rows.append(
            [answer["subject"], number(answer["loss"], 4), percent(answer["error"], 1), share, largest, smallest]
        )
    columns = ["network", "loss", "error", "not convex", "largest eigenvalues", "smallest"]
    return ShownTable("At the weights, and how much of the plane is not convex", columns, rows)
