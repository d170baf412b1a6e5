"""What deleting and permuting units does to the error, and the paths by their length."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from reslab.report.plots.depth import DASHED, format_log_tick, make_log_locator
from reslab.report.plots.style import MUTED, PALETTE, add_legend_above, make_figure, plot_style

WIDE_PANEL_INCHES, ERROR_PANEL_INCHES = (10.4, 3.7), (4.8, 3.3)


@dataclass(frozen=True)
class DeletionErrors:
    """One network: its error whole, and without each unit (None: not offered); an empty label stays unnamed."""

    label: str
    baseline_error: float
    errors_without: Sequence[float | None]
    color_index: int = 0


@dataclass(frozen=True)
class ErrorSamples:
    """A network's errors at several places across: points (x, errors found there)."""

    label: str
    points: Sequence[tuple[float, Sequence[float]]]
    color_index: int = 0


@dataclass(frozen=True)
class PathLengths:
    """A residual network's paths by length, from 0: share of the paths, mean gradient of one, share of the gradient."""

    label: str
    path_fractions: Sequence[float]
    gradient_norms: Sequence[float]
    gradient_fractions: Sequence[float]
    color_index: int = 0


def plot_deletion(networks: Sequence[DeletionErrors], chance: float) -> Figure:
    """The error without each unit: a stem a unit, from the dashed line that is the whole network's error."""
    with plot_style():
        figure, axes = make_figure(*WIDE_PANEL_INCHES)
        legend_entries, spacing = [], 0.7 / len(networks)
        for index, network in enumerate(networks):
            color, offset = PALETTE[network.color_index % len(PALETTE)], (index - (len(networks) - 1) / 2) * spacing
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
        _format_error_axis(axes, chance)
        axes.set_xlabel("unit that is deleted, from the input to the output")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.set_xlim(0.3, max(len(network.errors_without) for network in networks) + 0.7)
        _add_legend(axes, legend_entries)
        return figure


def plot_multiple_deletions(networks: Sequence[ErrorSamples], chance: float) -> Figure:
    """The mean error against the number of units deleted, in a band from the least to the most of the draws."""
    with plot_style():
        figure, axes = make_figure(*ERROR_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            color = PALETTE[network.color_index % len(PALETTE)]
            counts = [x for x, _ in network.points]
            low, high = [min(errors) for _, errors in network.points], [max(errors) for _, errors in network.points]
            axes.fill_between(counts, low, high, color=color, alpha=0.16, linewidth=0)
            lines = axes.plot(
                counts, [fmean(errors) for _, errors in network.points], color=color, marker="o", markersize=3.6
            )
            legend_entries.append((lines[0], network.label))
        _format_error_axis(axes, chance, "left")
        axes.set_xlabel("number of units deleted at random")
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        axes.set_xlim(left=0)
        _add_legend(axes, legend_entries)
        return figure


def plot_permutations(networks: Sequence[ErrorSamples], chance: float) -> Figure:
    """The error against Kendall's tau of the order the units run in: 1 on the left is the order unchanged."""
    with plot_style():
        figure, axes = make_figure(*ERROR_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            points = [(tau, error) for tau, errors in network.points for error in errors]
            dots = axes.plot(
                [tau for tau, _ in points], [error for _, error in points], "o", alpha=0.7,
                color=PALETTE[network.color_index % len(PALETTE)], markersize=4.6, markeredgewidth=0,
            )  # fmt: skip
            legend_entries.append((dots[0], network.label))
        _format_error_axis(axes, chance, "left")
        axes.set_xlabel("Kendall's tau of the units' order (1: unchanged)")
        axes.set_xlim(1.02, min(tau for network in networks for tau, _ in network.points) - 0.04)
        _add_legend(axes, legend_entries)
        return figure


def plot_path_lengths(networks: Sequence[PathLengths]) -> Figure:
    """Share of the paths (dashed) and of the gradient (solid) by the paths' length."""
    with plot_style():
        figure, axes = make_figure(*ERROR_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            color, lengths = PALETTE[network.color_index % len(PALETTE)], range(len(network.path_fractions))
            axes.plot(lengths, network.path_fractions, color=color, linestyle=DASHED, linewidth=1.4)
            axes.fill_between(lengths, 0, network.gradient_fractions, color=color, alpha=0.16, linewidth=0)
            legend_entries.append((axes.plot(lengths, network.gradient_fractions, color=color)[0], network.label))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(100 * y, 4):g} %"))
        legend_entries.append((Line2D([], [], color=MUTED, linewidth=1.5), "of the gradient"))
        legend_entries.append((Line2D([], [], color=MUTED, linewidth=1.4, linestyle=DASHED), "of the paths"))
        _format_length_axis(axes)
        _add_legend(axes, legend_entries)
        return figure


def plot_path_gradients(networks: Sequence[PathLengths]) -> Figure:
    """The norm of the gradient along one path of each length, on a logarithmic scale."""
    with plot_style():
        figure, axes = make_figure(*ERROR_PANEL_INCHES)
        legend_entries = []
        for network in networks:
            points = [(length, norm) for length, norm in enumerate(network.gradient_norms) if norm > 0]
            lines = axes.plot(
                [length for length, _ in points], [norm for _, norm in points], color=PALETTE[network.color_index % len(PALETTE)],
                marker="o" if len(points) < 40 else "", markersize=3.6,
            )  # fmt: skip
            legend_entries.append((lines[0], network.label))
        axes.set_yscale("log")
        axes.set_ylabel("norm of the gradient")
        axes.yaxis.set_major_locator(make_log_locator(*axes.get_ylim()))
        axes.yaxis.set_major_formatter(FuncFormatter(format_log_tick))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _format_length_axis(axes)
        _add_legend(axes, legend_entries)
        return figure


def _format_length_axis(axes: Axes) -> None:
    axes.set_xlabel("length of the path: branches it runs through")
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.margins(x=0.02)


def _format_error_axis(axes: Axes, chance: float, side: Literal["left", "right"] = "right") -> None:
    """From none to all wrong, with a thin line, named at this side, where guessing lies."""
    axes.axhline(chance, color=MUTED, linewidth=0.9, zorder=0)
    axes.set_ylabel("error")
    axes.annotate(
        "guessing", (0.995 if side == "right" else 0.01, chance), xycoords=("axes fraction", "data"),
        xytext=(0, 2.5), textcoords="offset points", ha=side, va="bottom", color=MUTED, fontsize=8.5,
    )  # fmt: skip
    axes.set_ylim(-0.015, 1.04)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))


def _add_legend(axes: Axes, entries: Sequence[tuple[Any, str]]) -> None:
    labeled = [(handle, label) for handle, label in entries if label]
    add_legend_above(axes, [handle for handle, _ in labeled], [label for _, label in labeled])
