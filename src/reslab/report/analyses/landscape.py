"""Render `landscape`: the loss around the weights as a line, contours and a surface, and its curvature."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result, line_styles
from reslab.report.colors import BLUE, GRID, INK, MUTED, NEGATIVE, POSITIVE, network_color
from reslab.report.format import format_number, format_percent, pluralize
from reslab.report.plots.style import (
    MIN_FONT_POINTS,
    PLOT_INCHES,
    add_legend_above,
    format_log_tick,
    make_figure,
    plot_style,
    set_log_scale,
)

_LOG_SCALE_RATIO = 30.0
_NUM_LEVELS = 12
_PANEL_WIDTH, _WIDE_WIDTH = 4.6, 10.4
_MAX_COLUMNS = 3
NON_CONVEX_RATIO = 0.1


@dataclass(frozen=True)
class LossSurface:
    """The loss `losses[j][i]` at alphas[i] and betas[j], None where it is not finite, and the run's trajectory."""

    label: str
    alphas: Sequence[float]
    betas: Sequence[float]
    losses: Sequence[Sequence[float | None]]
    trajectory: Sequence[tuple[float, float]] = ()
    xlabel: str = "first direction"
    ylabel: str = "second direction"

    def grid(self) -> np.ndarray:
        """Return the losses (betas, alphas), NaN where there is none."""
        return np.array([[math.nan if v is None else v for v in row] for row in self.losses], dtype=float)


@dataclass(frozen=True)
class ConvexityGrid:
    """|smallest / largest eigenvalue| of the Hessian at the points of a grid, None where there is none."""

    label: str
    alphas: Sequence[float]
    betas: Sequence[float]
    ratios: Sequence[Sequence[float | None]]


def needs_log_scale(surfaces: Sequence[LossSurface]) -> bool:
    """Return True for losses that span more than a factor of 30, which are drawn on a logarithmic scale."""
    losses = np.concatenate([surface.grid().ravel() for surface in surfaces])
    losses = losses[np.isfinite(losses)]
    return bool(len(losses)) and losses.min() > 0 and losses.max() / losses.min() > _LOG_SCALE_RATIO


def plot_loss_line(surfaces: Sequence[LossSurface], color_indices: Sequence[int]) -> Figure:
    """Plot the loss of all networks along the first direction, on the row of the grid nearest to the weights."""
    with plot_style():
        figure, axes = make_figure(PLOT_INCHES, 3.2)
        handles = []
        for surface, color_index in zip(surfaces, color_indices, strict=True):
            nearest_row = int(np.argmin(np.abs(np.array(surface.betas))))
            handles.append(axes.plot(surface.alphas, surface.grid()[nearest_row], color=network_color(color_index))[0])
        if needs_log_scale(surfaces):
            set_log_scale(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=0)
        axes.margins(x=0.02)
        axes.set_ylabel("loss")
        axes.set_xlabel(f"along the {surfaces[0].xlabel}{' (0: the weights)' if includes_weights(surfaces) else ''}")
        add_legend_above(axes, handles, [surface.label for surface in surfaces])
        return figure


def includes_weights(surfaces: Sequence[LossSurface]) -> bool:
    """Return True if every grid has a row through the weights; one with an even number of points does not."""
    return all(0.0 in surface.betas for surface in surfaces)


def plot_contours(surfaces: Sequence[LossSurface]) -> Figure:
    """Plot the contours of the loss, all networks at the same levels."""
    with plot_style():
        figure, panel_axes = _make_panels(len(surfaces), max_height=4.3, aspect=0.94)
        levels = _contour_levels(surfaces)
        for axes, surface in zip(panel_axes, surfaces, strict=True):
            _draw_contours(axes, surface, levels, needs_log_scale(surfaces))
            axes.set_title(surface.label, fontsize=9.5, color=INK, loc="left")
            axes.set_xlabel(surface.xlabel)
            axes.set_ylabel(surface.ylabel)
        return figure


def _make_panels(num_panels: int, *, max_height: float, aspect: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels in rows of three."""
    rows, columns, width = _panel_layout(num_panels)
    figure = Figure(figsize=(width, rows * min(max_height, aspect * width / columns)), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(num_panels)]


def _panel_layout(num_panels: int) -> tuple[int, int, float]:
    """Return rows, columns and width in inches of a figure with panels in rows of three."""
    columns = min(num_panels, _MAX_COLUMNS)
    return math.ceil(num_panels / columns), columns, _PANEL_WIDTH if columns == 1 else _WIDE_WIDTH


def _contour_levels(surfaces: Sequence[LossSurface]) -> np.ndarray:
    losses = np.concatenate([surface.grid().ravel() for surface in surfaces])
    losses = losses[np.isfinite(losses)]
    low, high = (float(losses.min()), float(losses.max())) if len(losses) else (0.0, 1.0)
    if needs_log_scale(surfaces):
        return np.geomspace(low, high, _NUM_LEVELS + 1)
    return np.unique(np.array(MaxNLocator(_NUM_LEVELS).tick_values(low, max(high, low + 1e-9))))


def _draw_contours(axes: Axes, surface: LossSurface, levels: np.ndarray, log: bool) -> None:
    """Fill the contours in one color of rising opacity, so that the plot suits light and dark mode."""
    grid = np.clip(surface.grid(), levels[0], levels[-1])
    if log:  # the grid is interpolated on the scale that the plot has
        grid, levels = np.log10(grid), np.log10(levels)
        grid = np.clip(grid, levels[0], levels[-1])
    fill_colors = [to_rgba(BLUE, 0.04 + 0.66 * index / (len(levels) - 1)) for index in range(len(levels) - 1)]
    axes.contourf(surface.alphas, surface.betas, grid, levels=levels, colors=fill_colors)
    lines = axes.contour(
        surface.alphas, surface.betas, grid, levels=levels, colors=[BLUE], linewidths=0.8, linestyles="solid"
    )
    level_labels = axes.clabel(
        lines,
        levels=levels[1:-1:2],
        fmt=lambda level: format_number(10**level if log else level, 2),
        fontsize=MIN_FONT_POINTS,
        colors=[INK],
    )
    for label in level_labels:
        if not _label_fits(surface, *label.get_position()):  # the edge would cut it off
            label.remove()
    if surface.trajectory:
        axes.plot(*zip(*surface.trajectory, strict=True), color=INK, marker="o", markersize=3.4, linewidth=1.3)
    axes.plot([0], [0], "*", color=INK, markersize=11, markeredgewidth=0)
    axes.grid(False)
    axes.margins(0)


def _label_fits(surface: LossSurface, x: float, y: float) -> bool:
    """Return True if a short label at (x, y) is inside the panel."""
    coordinates = ((x, surface.alphas), (y, surface.betas))
    return all(0.06 < (position - min(extent)) / (max(extent) - min(extent)) < 0.94 for position, extent in coordinates)


def plot_loss_surface(surfaces: Sequence[LossSurface]) -> Figure:
    """Plot the loss as a surface over the plane, all networks on the same scale."""
    with plot_style():
        rows, columns, width = _panel_layout(len(surfaces))
        figure = Figure(figsize=(width, rows * min(4.3, 0.85 * width / columns)))
        figure.subplots_adjust(left=0.01, right=0.95, bottom=0.06, top=0.9, wspace=0.08, hspace=0.12)
        log = needs_log_scale(surfaces)
        loss_limits = _contour_levels(surfaces)[[0, -1]]
        for index, surface in enumerate(surfaces):
            axes = figure.add_subplot(rows, columns, index + 1, projection="3d")
            _draw_surface(axes, surface, log, loss_limits)
        return figure


def _draw_surface(axes: Any, surface: LossSurface, log: bool, loss_limits: np.ndarray) -> None:
    grid = np.clip(surface.grid(), *loss_limits)
    heights, z_limits = (np.log10(grid), np.log10(loss_limits)) if log else (grid, loss_limits)
    x_grid, y_grid = np.meshgrid(surface.alphas, surface.betas)
    norm = Normalize(*z_limits)
    axes.plot_surface(
        x_grid, y_grid, heights, cmap=colormaps["viridis"], norm=norm, rstride=1, cstride=1, linewidth=0.15,
        edgecolor="#ffffff55", antialiased=True,
    )  # fmt: skip
    axes.set_zlim(*z_limits)
    axes.view_init(elev=34, azim=-56)
    axes.set_box_aspect(None, zoom=1.06)
    axes.set_title(surface.label, fontsize=9.5, color=INK, y=1.02)
    axes.set_xlabel(surface.xlabel.split(" (")[0], fontsize=MIN_FONT_POINTS, labelpad=-6)
    axes.set_ylabel(surface.ylabel.split(" (")[0], fontsize=MIN_FONT_POINTS, labelpad=-6)
    axes.set_zlabel("loss", fontsize=MIN_FONT_POINTS, labelpad=-6)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis._axinfo["grid"].update(color=GRID, linewidth=0.7)
        axis.line.set_color(GRID)
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_tick_params(labelsize=MIN_FONT_POINTS, pad=-1)
    if log:
        axes.zaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.zaxis.set_major_formatter(FuncFormatter(lambda z, _: format_log_tick(float(f"{10**z:.1g}"))))


def plot_convexity(grids: Sequence[ConvexityGrid]) -> Figure:
    """Plot |smallest / largest eigenvalue| of the Hessian over the plane: magenta above 0.1, green below."""
    with plot_style():
        figure, panel_axes = _make_panels(len(grids), max_height=3.6, aspect=0.8)
        for axes, grid in zip(panel_axes, grids, strict=True):
            _draw_convexity(axes, grid)
        return figure


def _draw_convexity(axes: Axes, grid: ConvexityGrid) -> None:
    for j, row in enumerate(grid.ratios):
        for i, ratio in enumerate(row):
            if ratio is None:
                continue
            is_convex = ratio <= NON_CONVEX_RATIO
            color = to_rgba(POSITIVE, 0.14) if is_convex else to_rgba(NEGATIVE, 0.16 + 0.5 * min(1.0, ratio))
            axes.fill([i - 0.48, i + 0.48, i + 0.48, i - 0.48], [j - 0.47, j - 0.47, j + 0.47, j + 0.47], color=color)
            axes.text(i, j, f"{ratio:.2f}", ha="center", va="center", fontsize=MIN_FONT_POINTS, color=INK)
    axes.set_xticks(range(len(grid.alphas)), [f"{value:.3g}" for value in grid.alphas])
    axes.set_yticks(range(len(grid.betas)), [f"{value:.3g}" for value in grid.betas])
    axes.set_title(grid.label, fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel("first direction")
    axes.set_ylabel("second direction")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.55, len(grid.alphas) - 0.45)
    axes.set_ylim(-0.55, len(grid.betas) - 0.45)


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
