"""Block ablation: the error with blocks deleted or permuted, and paths by their length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reslab.report.colors import MUTED, network_color
from reslab.report.plots.depth import label_blocks
from reslab.report.plots.style import (
    DASHED,
    MIN_FONT_POINTS,
    add_legend_above,
    make_figure,
    plot_style,
    set_log_scale,
)

_WIDE_PANEL_INCHES, _PANEL_INCHES = (10.4, 3.7), (4.8, 3.3)


@dataclass(frozen=True)
class ErrorAxis:
    """The y axis of the error plots, which they share: its range, its title, and whether it is in percent.

    `chance` is the error of guessing, None where guessing is not defined.
    """

    limits: tuple[float, float]
    title: str = "error"
    is_fraction: bool = True
    chance: float | None = None


@dataclass(frozen=True)
class DeletionErrors:
    """A network's error, and that without each block (None where it cannot be deleted)."""

    label: str
    baseline_error: float
    errors_without: Sequence[float | None]
    color_index: int = 0


@dataclass(frozen=True)
class ErrorSamples:
    """A network's errors at several x, as (x, errors)."""

    label: str
    points: Sequence[tuple[float, Sequence[float]]]
    color_index: int = 0


@dataclass(frozen=True)
class PathLengths:
    """A residual network's paths by length, from 0: fraction of paths, mean gradient norm, fraction of the gradient."""

    label: str
    path_fractions: Sequence[float]
    gradient_norms: Sequence[float]
    gradient_fractions: Sequence[float]
    color_index: int = 0


def plot_deletion(networks: Sequence[DeletionErrors], axis: ErrorAxis, names: Sequence[str] = ()) -> Figure:
    """Plot the error without each block, as a stem from the dashed line that is the intact network's error.

    `names` are the blocks' names; without them, as where networks differ, the axis has their numbers.
    """
    with plot_style():
        figure, axes = make_figure(*_WIDE_PANEL_INCHES)
        legend_entries, spacing = [], 0.7 / len(networks)
        for index, network in enumerate(networks):
            color, offset = network_color(network.color_index), (index - (len(networks) - 1) / 2) * spacing
            points = [(i + offset, error) for i, error in enumerate(network.errors_without, 1) if error is not None]
            missing = [i + offset for i, error in enumerate(network.errors_without, 1) if error is None]
            axes.axhline(network.baseline_error, color=color, linewidth=1.0, linestyle=DASHED, zorder=1)
            axes.vlines(
                [x for x, _ in points], network.baseline_error, [y for _, y in points], color=color, linewidth=1.5
            )
            dots = axes.plot([x for x, _ in points], [y for _, y in points], "o", color=color, markersize=4.4)
            axes.plot(
                missing, [network.baseline_error] * len(missing), "x", color=color, markersize=5, markeredgewidth=1.6
            )
            legend_entries.append((dots[0], network.label))
        _format_error_axis(axes, axis)
        axes.set_xlabel("deleted block, from input to output")
        label_blocks(axes, names)
        axes.set_xlim(0.3, max(len(network.errors_without) for network in networks) + 0.7)
        _add_legend(axes, legend_entries)
        return figure


def plot_multiple_deletions(networks: Sequence[ErrorSamples], axis: ErrorAxis) -> Figure:
    """Plot the mean error against the number of deleted blocks, in a band from the minimum to the maximum."""
    with plot_style():
        figure, axes = make_figure(*_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            color = network_color(network.color_index)
            counts = [x for x, _ in network.points]
            low, high = [min(errors) for _, errors in network.points], [max(errors) for _, errors in network.points]
            axes.fill_between(counts, low, high, color=color, alpha=0.16, linewidth=0)
            lines = axes.plot(
                counts, [fmean(errors) for _, errors in network.points], color=color, marker="o", markersize=3.6
            )
            legend_entries.append((lines[0], network.label))
        _format_error_axis(axes, axis, "left")
        axes.set_xlabel("number of randomly deleted blocks")
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        axes.set_xlim(left=0)
        _add_legend(axes, legend_entries)
        return figure


def plot_permutations(networks: Sequence[ErrorSamples], axis: ErrorAxis) -> Figure:
    """Plot the error against Kendall's tau of the order of blocks; 1, on the left, is the original order."""
    with plot_style():
        figure, axes = make_figure(*_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            points = [(tau, error) for tau, errors in network.points for error in errors]
            dots = axes.plot(
                [tau for tau, _ in points], [error for _, error in points], "o", alpha=0.7,
                color=network_color(network.color_index), markersize=4.6, markeredgewidth=0,
            )  # fmt: skip
            legend_entries.append((dots[0], network.label))
        _format_error_axis(axes, axis, "left")
        axes.set_xlabel("Kendall's tau of the block order (1: original)")
        axes.set_xlim(1.02, min(tau for network in networks for tau, _ in network.points) - 0.04)
        _add_legend(axes, legend_entries)
        return figure


def plot_path_lengths(networks: Sequence[PathLengths]) -> Figure:
    """Plot the fractions of paths (dashed) and of the gradient (solid) by path length."""
    with plot_style():
        figure, axes = make_figure(*_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            color, lengths = network_color(network.color_index), range(len(network.path_fractions))
            axes.plot(lengths, network.path_fractions, color=color, linestyle=DASHED, linewidth=1.4)
            axes.fill_between(lengths, 0, network.gradient_fractions, color=color, alpha=0.16, linewidth=0)
            legend_entries.append((axes.plot(lengths, network.gradient_fractions, color=color)[0], network.label))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("fraction")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(100 * y, 4):g} %"))
        legend_entries.append((Line2D([], [], color=MUTED, linewidth=1.5), "of the gradient"))
        legend_entries.append((Line2D([], [], color=MUTED, linewidth=1.4, linestyle=DASHED), "of the paths"))
        _format_length_axis(axes)
        _add_legend(axes, legend_entries)
        return figure


def plot_path_gradients(networks: Sequence[PathLengths]) -> Figure:
    """Plot the norm of the gradient along one path of each length, on a logarithmic scale."""
    with plot_style():
        figure, axes = make_figure(*_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            points = [(length, norm) for length, norm in enumerate(network.gradient_norms) if norm > 0]
            lines = axes.plot(
                [length for length, _ in points], [norm for _, norm in points],
                color=network_color(network.color_index), marker="o" if len(points) < 40 else "", markersize=3.6,
            )  # fmt: skip
            legend_entries.append((lines[0], network.label))
        set_log_scale(axes)
        axes.set_ylabel("gradient norm")
        _format_length_axis(axes)
        _add_legend(axes, legend_entries)
        return figure


def _format_length_axis(axes: Axes) -> None:
    axes.set_xlabel("path length: number of branches")
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.margins(x=0.02)


def error_axis(errors: Sequence[float], title: str, is_fraction: bool, chance: float | None) -> ErrorAxis:
    """Return an axis that holds all finite errors and the chance level; fractions stay within 0 and 1."""
    values = [error for error in (*errors, chance) if error is not None and math.isfinite(error)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if is_fraction:
        margin = max(0.04, 0.08 * (high - low))
        limits = max(-0.015, low - margin), min(1.04, high + margin)
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
        limits = low - margin, high + margin
    return ErrorAxis(limits, title, is_fraction, chance)


def _format_error_axis(axes: Axes, axis: ErrorAxis, side: Literal["left", "right"] = "right") -> None:
    """Draw a thin line at the chance level, labeled at one side."""
    axes.set_ylabel(axis.title)
    axes.set_ylim(*axis.limits)
    if axis.is_fraction:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    if axis.chance is None:
        return
    axes.axhline(axis.chance, color=MUTED, linewidth=0.9, zorder=0)
    axes.annotate(
        "chance", (0.995 if side == "right" else 0.01, axis.chance), xycoords=("axes fraction", "data"),
        xytext=(0, 2.5), textcoords="offset points", ha=side, va="bottom", color=MUTED, fontsize=MIN_FONT_POINTS,
    )  # fmt: skip


def _add_legend(axes: Axes, entries: Sequence[tuple[Any, str]]) -> None:
    labeled = [(handle, label) for handle, label in entries if label]
    add_legend_above(axes, [handle for handle, _ in labeled], [label for _, label in labeled])
