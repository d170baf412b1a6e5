"""Plots over the blocks or layers of a network: a measure of each, errors with blocks deleted, paths by length."""

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
from reslab.report.plots.style import (
    DASHED,
    DOTTED,
    MIN_FONT_POINTS,
    PLOT_INCHES,
    add_legend_above,
    make_figure,
    plot_style,
    set_log_scale,
)

_MAX_LABELS = 8
_PANEL_INCHES = (PLOT_INCHES, 3.2)


@dataclass(frozen=True)
class DepthProfile:
    """The values of a network from the first block to the last; those that cannot be drawn leave a gap in the line.

    Missing and non-finite values cannot, nor values of at most 0 on a logarithmic scale. A profile without a label is
    not in the legend.
    """

    label: str
    values: Sequence[float | None]
    color_index: int = 0
    dashed: bool = False
    dotted: bool = False
    alpha: float = 1.0


def plot_depth_profiles(
    profiles: Sequence[DepthProfile],
    *,
    log: bool = True,
    xlabel: str = "block, from input to output",
    ylabel: str = "",
    hline: float | None = None,
    as_steps: bool = False,
    from_zero: bool = False,
    stroke_labels: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Figure:
    """Plot profiles over the blocks of a network, such as the norm of the gradient at each.

    `hline` draws a thin line at a value; `as_steps` suits values that stay and jump; `stroke_labels` name the solid,
    the dashed and the dotted lines. `names` are the blocks' names, as the tables have them; without them, as where
    networks differ, the axis has the blocks' numbers.
    """
    with plot_style():
        figure, axes = make_figure(*_PANEL_INCHES)
        if hline is not None:
            axes.axhline(hline, color=MUTED, linewidth=0.9)
        lines = []
        for index, profile in enumerate(profiles):
            num_overlaid = sum(other.values == profile.values for other in profiles[index + 1 :])
            line = _draw_profile(axes, profile, log, as_steps, num_overlaid)
            lines += [(line, profile.label)] if line is not None else []
        if log:
            values = {value for profile in profiles for value in profile.values if value}
            set_log_scale(axes, sorted(values) if as_steps else ())
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        if from_zero:
            axes.set_ylim(0.0, 1.02 * axes.get_ylim()[1])
        label_blocks(axes, names)
        axes.set_xlabel(xlabel)
        if ylabel:
            axes.set_ylabel(ylabel)
        entries = [(line, label) for line, label in lines if label] + _stroke_entries(stroke_labels)
        add_legend_above(axes, [line for line, _ in entries], [label for _, label in entries])
        return figure


def label_blocks(axes: Axes, names: Sequence[str] = ()) -> None:
    """Label the x axis, 1 for the first block, with the blocks' names, or with numbers where there are none.

    Of more than eight blocks, evenly spaced ones are labeled.
    """
    axes.margins(x=0.02)
    axes.set_xlim(left=max(0.5, axes.get_xlim()[0]))
    if not names:
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        return
    count = min(_MAX_LABELS, len(names))
    positions = sorted({round(i * (len(names) - 1) / max(1, count - 1)) for i in range(count)})
    is_long = sum(len(names[i]) for i in positions) > 44
    axes.set_xticks(
        [i + 1 for i in positions],
        [names[i] for i in positions],
        rotation=35 if is_long else 0,
        ha="right" if is_long else "center",
        rotation_mode="anchor",
    )


def _stroke_entries(labels: Sequence[str]) -> list[tuple[Line2D, str]]:
    linestyles: tuple[Any, ...] = ("-", DASHED, DOTTED)
    return [
        (Line2D([], [], color=MUTED, linestyle=linestyle, linewidth=1.5), label)
        for label, linestyle in zip(labels, linestyles, strict=False)
    ]


def _draw_profile(axes: Axes, profile: DepthProfile, log: bool, as_steps: bool, num_overlaid: int) -> Line2D | None:
    """Draw a line, wider where as many equal ones are drawn over it later, so that it stays visible."""
    points = [_value_or_nan(value, log) for value in profile.values]
    if all(math.isnan(point) for point in points):
        return None
    is_secondary = profile.dashed or profile.dotted or as_steps
    return axes.plot(
        range(1, len(points) + 1), points, color=network_color(profile.color_index), alpha=profile.alpha,
        marker="" if is_secondary or len(points) > 60 else "o", markersize=3.6,
        linewidth=(1.4 if is_secondary and not as_steps else 1.9) + 3.2 * num_overlaid,
        drawstyle="steps-mid" if as_steps else "default",
        linestyle=DASHED if profile.dashed else DOTTED if profile.dotted else "-",
    )[0]  # fmt: skip


def _value_or_nan(value: float | None, log: bool) -> float:
    """Return the value, or NaN, which leaves a gap, where the scale has no place for it."""
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return math.nan
    return float(value)


@dataclass(frozen=True)
class SnapshotCurve:
    """A measure at the saved steps of a training run."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    color_index: int = 0


def plot_snapshots(curves: Sequence[SnapshotCurve], *, log: bool = True) -> Figure:
    """Plot a measure against the steps of training."""
    with plot_style():
        figure, axes = make_figure(*_PANEL_INCHES)
        handles = [
            axes.plot(curve.steps, curve.values, color=network_color(curve.color_index), marker="o", markersize=3.6)[0]
            for curve in curves
        ]
        if log:
            set_log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("step")
        add_legend_above(axes, handles, [curve.label for curve in curves])
        return figure


_WIDE_ERROR_INCHES, _ERROR_INCHES = (10.4, 3.7), (4.8, 3.3)


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
        figure, axes = make_figure(*_WIDE_ERROR_INCHES)
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
        figure, axes = make_figure(*_ERROR_INCHES)
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
        figure, axes = make_figure(*_ERROR_INCHES)
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
        figure, axes = make_figure(*_ERROR_INCHES)
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
        figure, axes = make_figure(*_ERROR_INCHES)
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
