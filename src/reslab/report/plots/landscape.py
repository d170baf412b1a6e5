"""The loss around the weights: a line, contours, a surface, and where it is not convex."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from reslab.report.format import number
from reslab.report.plots.depth import log_ticks, power
from reslab.report.plots.style import BLUE, GRID, INK, MUTED, SERIES, VERMILION, empty_panel, legend_above, styled

_LOG_SPAN = 30.0
_NUM_LEVELS = 12
_PANEL_WIDTH, _PANEL_HEIGHT = 4.6, 4.3
_MOST_IN_A_ROW = 3


@dataclass(frozen=True)
class Surface:
    """`losses[j][i]` at alphas[i], betas[j], None where it is no finite number; `way` the run's points there."""

    label: str
    alphas: Sequence[float]
    betas: Sequence[float]
    losses: Sequence[Sequence[float | None]]
    way: Sequence[tuple[float, float]] = ()
    across: str = "first direction"
    up: str = "second direction"

    def grid(self) -> np.ndarray:
        """(betas, alphas), not a number where there is none."""
        return np.array([[math.nan if v is None else v for v in row] for row in self.losses], dtype=float)


@dataclass(frozen=True)
class Cells:
    """|smallest / largest eigenvalue| at the points of a grid, None where there is none."""

    label: str
    alphas: Sequence[float]
    betas: Sequence[float]
    ratios: Sequence[Sequence[float | None]]


def is_logarithmic(surfaces: Sequence[Surface]) -> bool:
    """Whether the losses span so much that they are drawn on a logarithmic scale."""
    found = np.concatenate([surface.grid().ravel() for surface in surfaces])
    found = found[np.isfinite(found)]
    return bool(len(found)) and found.min() > 0 and found.max() / found.min() > _LOG_SPAN


def line_figure(surfaces: Sequence[Surface], colours: Sequence[int]) -> Figure:
    """The loss along the first direction, every network on one picture, on the grid's row nearest to the weights."""
    with styled():
        figure, axes = empty_panel(5.8, 3.4)
        handles = []
        for surface, colour in zip(surfaces, colours, strict=True):
            row = int(np.argmin(np.abs(np.array(surface.betas))))
            handles.append(axes.plot(surface.alphas, surface.grid()[row], color=SERIES[colour % len(SERIES)])[0])
        if is_logarithmic(surfaces):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(log_ticks(*axes.get_ylim()))
            axes.yaxis.set_major_formatter(FuncFormatter(power))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=0)
        axes.margins(x=0.02)
        axes.set_ylabel("loss")
        axes.set_xlabel(f"along the {surfaces[0].across}{' (0: the weights)' if through_weights(surfaces) else ''}")
        legend_above(axes, handles, [surface.label for surface in surfaces])
        return figure


def through_weights(surfaces: Sequence[Surface]) -> bool:
    """Whether the weights lie on a row of every grid; those of an even number of points, or of a run's way, miss it."""
    return all(0.0 in surface.betas for surface in surfaces)


def contour_figure(surfaces: Sequence[Surface]) -> Figure:
    """Lines of equal loss, deeper where it is higher, every network at the same levels."""
    with styled():
        figure, panels = _row(len(surfaces))
        levels = _levels(surfaces)
        for axes, surface in zip(panels, surfaces, strict=True):
            _contours(axes, surface, levels, is_logarithmic(surfaces))
            axes.set_title(surface.label, fontsize=9.5, color=INK, loc="left")
            axes.set_xlabel(surface.across)
            axes.set_ylabel(surface.up)
        return figure


def _row(number_of: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many square panels, three a row."""
    columns = min(number_of, _MOST_IN_A_ROW)
    rows = math.ceil(number_of / columns)
    width = _PANEL_WIDTH if columns == 1 else 10.4
    figure = Figure(figsize=(width, rows * min(_PANEL_HEIGHT, 0.94 * width / columns)), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(number_of)]


def _levels(surfaces: Sequence[Surface]) -> np.ndarray:
    found = np.concatenate([surface.grid().ravel() for surface in surfaces])
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    if is_logarithmic(surfaces):
        return np.geomspace(low, high, _NUM_LEVELS + 1)
    return np.unique(np.array(MaxNLocator(_NUM_LEVELS).tick_values(low, max(high, low + 1e-9))))


def _contours(axes: Axes, surface: Surface, levels: np.ndarray, log: bool) -> None:
    """Filled in one colour of rising opacity, so that the picture lies on light and on dark paper."""
    grid = np.clip(surface.grid(), levels[0], levels[-1])
    if log:  # between the points, too, the scale is the one the picture shows
        grid, levels = np.log10(grid), np.log10(levels)
        grid = np.clip(grid, levels[0], levels[-1])
    depths = [to_rgba(BLUE, 0.04 + 0.66 * place / (len(levels) - 1)) for place in range(len(levels) - 1)]
    axes.contourf(surface.alphas, surface.betas, grid, levels=levels, colors=depths)
    lines = axes.contour(
        surface.alphas, surface.betas, grid, levels=levels, colors=[BLUE], linewidths=0.8, linestyles="solid"
    )
    numbers = axes.clabel(
        lines,
        levels=levels[1:-1:2],
        fmt=lambda level: number(10**level if log else level, 2),
        fontsize=7.5,
        colors=[INK],
    )
    for text in numbers:
        if not _is_inside(surface, *text.get_position()):  # it would be cut off at the edge
            text.remove()
    if surface.way:
        axes.plot(*zip(*surface.way, strict=True), color=VERMILION, marker="o", markersize=3.4, linewidth=1.3)
    axes.plot([0], [0], "*", color=VERMILION, markersize=11, markeredgewidth=0)
    axes.grid(False)
    axes.margins(0)


def _is_inside(surface: Surface, x: float, y: float) -> bool:
    """Whether a number of some letters at (x, y) lies in the picture as a whole."""
    places = ((x, surface.alphas), (y, surface.betas))
    return all(0.06 < (at - min(sides)) / (max(sides) - min(sides)) < 0.94 for at, sides in places)


def surface_figure(surfaces: Sequence[Surface]) -> Figure:
    """The loss as a height over the plane, every network on the same scale."""
    with styled():
        columns = min(len(surfaces), _MOST_IN_A_ROW)
        rows = math.ceil(len(surfaces) / columns)
        width = _PANEL_WIDTH if columns == 1 else 10.4
        figure = Figure(figsize=(width, rows * min(4.3, 0.85 * width / columns)))
        figure.subplots_adjust(left=0.01, right=0.95, bottom=0.06, top=0.9, wspace=0.08, hspace=0.12)
        log = is_logarithmic(surfaces)
        ends = _levels(surfaces)[[0, -1]]
        for place, surface in enumerate(surfaces):
            axes = figure.add_subplot(rows, columns, place + 1, projection="3d")
            _height(axes, surface, log, ends)
        return figure


def _height(axes: Any, surface: Surface, log: bool, ends: np.ndarray) -> None:
    grid = np.clip(surface.grid(), *ends)
    heights, limits = (np.log10(grid), np.log10(ends)) if log else (grid, ends)
    across, up = np.meshgrid(surface.alphas, surface.betas)
    norm = Normalize(*limits)
    axes.plot_surface(
        across, up, heights, cmap=colormaps["viridis"], norm=norm, rstride=1, cstride=1, linewidth=0.15,
        edgecolor="#ffffff55", antialiased=True,
    )  # fmt: skip
    axes.set_zlim(*limits)
    axes.view_init(elev=34, azim=-56)
    axes.set_box_aspect(None, zoom=1.06)
    axes.set_title(surface.label, fontsize=9.5, color=INK, y=1.02)
    axes.set_xlabel(surface.across.split(" (")[0], fontsize=7.5, labelpad=-6)
    axes.set_ylabel(surface.up.split(" (")[0], fontsize=7.5, labelpad=-6)
    axes.set_zlabel("loss", fontsize=7.5, labelpad=-6)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis._axinfo["grid"].update(color=GRID, linewidth=0.7)
        axis.line.set_color(GRID)
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_tick_params(labelsize=7.5, pad=-1)
    if log:
        axes.zaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.zaxis.set_major_formatter(FuncFormatter(lambda z, _: power(float(f"{10**z:.1g}"))))


def convexity_figure(cells: Sequence[Cells]) -> Figure:
    """|smallest / largest eigenvalue| of the Hessian over the plane: vermilion above 0.1, blue below."""
    with styled():
        columns = min(len(cells), _MOST_IN_A_ROW)
        rows = math.ceil(len(cells) / columns)
        width = _PANEL_WIDTH if columns == 1 else 10.4
        figure = Figure(figsize=(width, rows * min(3.6, 0.8 * width / columns)), layout="constrained")
        for place, one in enumerate(cells):
            _mosaic(figure.add_subplot(rows, columns, place + 1), one)
        return figure


def _mosaic(axes: Axes, cells: Cells) -> None:
    for j, row in enumerate(cells.ratios):
        for i, ratio in enumerate(row):
            if ratio is None:
                continue
            colour = to_rgba(VERMILION if ratio > 0.1 else BLUE, 0.16 + 0.5 * min(1.0, ratio) if ratio > 0.1 else 0.14)
            axes.fill([i - 0.48, i + 0.48, i + 0.48, i - 0.48], [j - 0.47, j - 0.47, j + 0.47, j + 0.47], color=colour)
            axes.text(i, j, f"{ratio:.2f}", ha="center", va="center", fontsize=8.5, color=INK)
    axes.set_xticks(range(len(cells.alphas)), [f"{value:.3g}" for value in cells.alphas])
    axes.set_yticks(range(len(cells.betas)), [f"{value:.3g}" for value in cells.betas])
    axes.set_title(cells.label, fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel("first direction")
    axes.set_ylabel("second direction")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.55, len(cells.alphas) - 0.45)
    axes.set_ylim(-0.55, len(cells.betas) - 0.45)
