"""Render `landscape`: the loss around the weights, and its curvature."""

from collections.abc import Sequence

from reslab.report.analyses.overlay import line_styles
from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_number, format_percent, pluralize
from reslab.report.plots.landscape import (
    NON_CONVEX_RATIO,
    ConvexityGrid,
    LossSurface,
    includes_weights,
    needs_log_scale,
    plot_contours,
    plot_convexity,
    plot_loss_line,
    plot_loss_surface,
)


def render_landscape(results: Sequence[Result]) -> RenderedResult:
    """Render contours and surfaces on the same scale for all networks, the line through the weights, and curvature."""
    planar = [result for result in results if result["dimensions"] == 2]
    figures = _render_maps(planar) if planar else []
    figures.append(_render_line(results))
    grids = [_convexity_grid(result) for result in planar if len(result["curvature"]) > 1]
    if grids:
        figures.append(_render_convexity(grids))
    return RenderedResult(
        "Loss landscape",
        tuple(landscape_text(result) for result in results),
        tuple(figures),
        (_render_table(results),),
    )


def landscape_text(result: Result) -> str:
    """Return the loss at the weights and around them, and a summary of the curvature."""
    losses = [value for row in result["losses"] for value in row if value is not None]
    text = f"{result['model']}: loss {format_number(result['loss'], 3)} at the weights"
    if losses:
        lowest, highest = min(losses), max(losses)
        text += f", {format_number(lowest, 3)} to {format_number(highest, 3)} on the grid"
    if result["non_convex_fraction"] is not None:
        text += (
            f"; at {format_percent(result['non_convex_fraction'], 0)} of "
            f"{pluralize(len(result['curvature']), 'point')} "
            f"the surface is far from convex (|smallest / largest eigenvalue of the Hessian| above {NON_CONVEX_RATIO})"
        )
    if result["largest"]:
        text += f"; the largest eigenvalue at the weights is {format_number(result['largest'][0], 3)}"
    if result["explained_variance"]:
        explained = format_percent(sum(result["explained_variance"]), 1)
        text += f"; the plane explains {explained} of the variance of the trajectory"
    return text + "."


def _loss_surface(result: Result, label: str = "") -> LossSurface:
    explained = [f" ({format_percent(fraction, 0)} of the variance)" for fraction in result["explained_variance"]] or [
        "",
        "",
    ]
    kind = "random direction" if result["directions"] == "random" else "principal component"
    trajectory = [(point["alpha"], point["beta"]) for point in result["trajectory"]]
    return LossSurface(
        label=label or result["model"],
        alphas=result["alphas"],
        betas=result["betas"],
        losses=result["losses"],
        trajectory=[*trajectory, (0.0, 0.0)] if trajectory else [],
        xlabel=f"first {kind}{explained[0]}",
        ylabel=f"second {kind}{explained[-1]}",
    )


def _render_maps(results: Sequence[Result]) -> list[RenderedFigure]:
    surfaces = [_loss_surface(result) for result in results]
    scale_text = " Logarithmic scale." if needs_log_scale(surfaces) else ""
    star_text = "Star: the weights. "
    trajectory_text = "Dots: snapshots of the run. " if any(surface.trajectory for surface in surfaces) else ""
    levels_text = "Stronger color: higher loss" + (
        ", at the same levels for all networks." if len(surfaces) > 1 else "."
    )
    return [
        RenderedFigure(
            plot_contours(surfaces),
            "Contours of the loss around the weights. " + levels_text,
            "Loss contours",
            star_text + trajectory_text + levels_text + scale_text,
        ),
        RenderedFigure(
            plot_loss_surface(surfaces),
            "Surface of the loss over the plane of the two directions.",
            "Loss surface",
            "The same plane and losses." + scale_text,
        ),
    ]


def _render_line(results: Sequence[Result]) -> RenderedFigure:
    styles = line_styles(results)
    surfaces = [_loss_surface(result, style.label) for result, style in zip(results, styles, strict=True)]
    scale_text = " Logarithmic scale." if needs_log_scale(surfaces) else ""
    location = "line through the weights" if includes_weights(surfaces) else "line of the grid nearest to the weights"
    alt_text = f"Loss on the {location}, along the first direction."
    return RenderedFigure(
        plot_loss_line(surfaces, [style.color_index for style in styles]),
        alt_text,
        "Loss along one direction",
        alt_text + scale_text,
    )


def _convexity_grid(result: Result) -> ConvexityGrid:
    ratios = {(curvature["alpha"], curvature["beta"]): eigenvalue_ratio(curvature) for curvature in result["curvature"]}
    alphas, betas = sorted({alpha for alpha, _ in ratios}), sorted({beta for _, beta in ratios})
    rows = [[ratios.get((alpha, beta)) for alpha in alphas] for beta in betas]
    return ConvexityGrid(result["model"], alphas, betas, rows)


def eigenvalue_ratio(curvature: Result) -> float | None:
    """Return |smallest / largest eigenvalue|, 0 if no eigenvalue is negative; None if it was not measured."""
    if curvature["smallest"] is None or not curvature["largest"]:
        return None
    return abs(min(curvature["smallest"], 0.0) / curvature["largest"])


def _render_convexity(grids: Sequence[ConvexityGrid]) -> RenderedFigure:
    alt_text = "|smallest / largest eigenvalue of the Hessian| over the plane, 0 where none is negative."
    caption = f"{alt_text} Magenta: above {NON_CONVEX_RATIO}, far from convex. Green: close to convex."
    return RenderedFigure(plot_convexity(grids), alt_text, "Convexity of the loss surface", caption)


def _error_text(result: Result) -> str:
    is_fraction = result["measure"]["is_fraction"]
    return format_percent(result["error"], 1) if is_fraction else format_number(result["error"], 4)


def _render_table(results: Sequence[Result]) -> RenderedTable:
    rows = []
    for result in results:
        eigenvalues = zip(result["largest"], result["largest_errors"], strict=True)
        largest = ", ".join(f"{format_number(value, 4)} ± {format_number(std, 1)}" for value, std in eigenvalues) or "–"
        smallest = format_number(result["smallest"][0], 3) if result["smallest"] else "–"
        fraction = format_percent(result["non_convex_fraction"], 0)
        rows.append(
            [
                result["model"],
                format_number(result["loss"], 4),
                _error_text(result),
                fraction,
                largest,
                smallest,
            ]
        )
    columns = ["network", "loss", results[0]["measure"]["title"], "non-convex", "largest eigenvalues", "smallest"]
    return RenderedTable("Loss and curvature at the weights, and the non-convex fraction of the plane", columns, rows)
