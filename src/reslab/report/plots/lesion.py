"""What deleting and permuting units does to the error, and the paths by their length."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from reslab.report.plots.depth import DASHED, log_ticks, power
from reslab.report.plots.style import MUTED, SERIES, empty_panel, legend_above, styled

WIDE, PANEL = (10.4, 3.7), (4.8, 3.3)


@dataclass(frozen=True)
class Struck:
    """One network: its error whole, and without each unit (None: not offered); an empty label stays unnamed."""

    label: str
    error: float
    without: Sequence[float | None]
    colour: int = 0


@dataclass(frozen=True)
class Spread:
    """A network's errors at several places across: points (x, errors found there)."""

    label: str
    points: Sequence[tuple[float, Sequence[float]]]
    colour: int = 0


@dataclass(frozen=True)
class Lengths:
    """A residual network's paths by length, from 0: share of the paths, mean gradient of one, share of the gradient."""

    label: str
    shares: Sequence[float]
    gradients: Sequence[float]
    contributions: Sequence[float]
    colour: int = 0


def deleted_figure(networks: Sequence[Struck], chance: float) -> Figure:
    """The error without each unit: a stem a unit, from the dashed line that is the whole network's error."""
    with styled():
        figure, axes = empty_panel(*WIDE)
        named, step = [], 0.7 / len(networks)
        for place, one in enumerate(networks):
            colour, shift = SERIES[one.colour % len(SERIES)], (place - (len(networks) - 1) / 2) * step
            points = [(i + shift, error) for i, error in enumerate(one.without, 1) if error is not None]
            absent = [i + shift for i, error in enumerate(one.without, 1) if error is None]
            axes.axhline(one.error, color=colour, linewidth=1.0, linestyle=DASHED, zorder=1)
            axes.vlines([x for x, _ in points], one.error, [y for _, y in points], color=colour, linewidth=1.5)
            dots = axes.plot([x for x, _ in points], [y for _, y in points], "o", color=colour, markersize=4.4)
            axes.plot(absent, [one.error] * len(absent), "x", color=colour, markersize=5, markeredgewidth=1.6)
            named.append((dots[0], one.label))
        _error_axis(axes, chance)
        axes.set_xlabel("unit that is deleted, from the input to the output")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.set_xlim(0.3, max(len(one.without) for one in networks) + 0.7)
        _legend(axes, named)
        return figure


def several_figure(networks: Sequence[Spread], chance: float) -> Figure:
    """The mean error against the number of units deleted, in a band from the least to the most of the draws."""
    with styled():
        figure, axes = empty_panel(*PANEL)
        named = []
        for one in networks:
            colour = SERIES[one.colour % len(SERIES)]
            across = [x for x, _ in one.points]
            low, high = [min(found) for _, found in one.points], [max(found) for _, found in one.points]
            axes.fill_between(across, low, high, color=colour, alpha=0.16, linewidth=0)
            line = axes.plot(
                across, [fmean(found) for _, found in one.points], color=colour, marker="o", markersize=3.6
            )
            named.append((line[0], one.label))
        _error_axis(axes, chance, "left")
        axes.set_xlabel("number of units deleted at random")
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
        axes.set_xlim(left=0)
        _legend(axes, named)
        return figure


def permuted_figure(networks: Sequence[Spread], chance: float) -> Figure:
    """The error against Kendall's tau of the order the units run in: 1 on the left is the order unchanged."""
    with styled():
        figure, axes = empty_panel(*PANEL)
        named = []
        for one in networks:
            points = [(tau, error) for tau, found in one.points for error in found]
            dots = axes.plot(
                [tau for tau, _ in points], [error for _, error in points], "o", alpha=0.7,
                color=SERIES[one.colour % len(SERIES)], markersize=4.6, markeredgewidth=0,
            )  # fmt: skip
            named.append((dots[0], one.label))
        _error_axis(axes, chance, "left")
        axes.set_xlabel("Kendall's tau of the units' order (1: unchanged)")
        axes.set_xlim(1.02, min(tau for one in networks for tau, _ in one.points) - 0.04)
        _legend(axes, named)
        return figure


def lengths_figure(networks: Sequence[Lengths]) -> Figure:
    """Share of the paths (dashed) and of the gradient (solid) by the paths' length."""
    with styled():
        figure, axes = empty_panel(*PANEL)
        named = []
        for one in networks:
            colour, across = SERIES[one.colour % len(SERIES)], range(len(one.shares))
            axes.plot(across, one.shares, color=colour, linestyle=DASHED, linewidth=1.4)
            axes.fill_between(across, 0, one.contributions, color=colour, alpha=0.16, linewidth=0)
            named.append((axes.plot(across, one.contributions, color=colour)[0], one.label))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(100 * y, 4):g} %"))
        named.append((Line2D([], [], color=MUTED, linewidth=1.5), "of the gradient"))
        named.append((Line2D([], [], color=MUTED, linewidth=1.4, linestyle=DASHED), "of the paths"))
        _length_axis(axes)
        _legend(axes, named)
        return figure


def path_gradients_figure(networks: Sequence[Lengths]) -> Figure:
    """The norm of the gradient along one path of each length, on a logarithmic scale."""
    with styled():
        figure, axes = empty_panel(*PANEL)
        named = []
        for one in networks:
            points = [(k, norm) for k, norm in enumerate(one.gradients) if norm > 0]
            line = axes.plot(
                [k for k, _ in points], [norm for _, norm in points], color=SERIES[one.colour % len(SERIES)],
                marker="o" if len(points) < 40 else "", markersize=3.6,
            )  # fmt: skip
            named.append((line[0], one.label))
        axes.set_yscale("log")
        axes.set_ylabel("norm of the gradient")
        axes.yaxis.set_major_locator(log_ticks(*axes.get_ylim()))
        axes.yaxis.set_major_formatter(FuncFormatter(power))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _length_axis(axes)
        _legend(axes, named)
        return figure


def _length_axis(axes: Axes) -> None:
    axes.set_xlabel("length of the path: branches it runs through")
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.margins(x=0.02)


def _error_axis(axes: Axes, chance: float, side: Literal["left", "right"] = "right") -> None:
    """From none to all wrong, with a thin line, named at this side, where guessing lies."""
    axes.axhline(chance, color=MUTED, linewidth=0.9, zorder=0)
    axes.set_ylabel("error")
    axes.annotate(
        "guessing", (0.995 if side == "right" else 0.01, chance), xycoords=("axes fraction", "data"),
        xytext=(0, 2.5), textcoords="offset points", ha=side, va="bottom", color=MUTED, fontsize=8.5,
    )  # fmt: skip
    axes.set_ylim(-0.015, 1.04)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))


def _legend(axes: Axes, named: Sequence[tuple[Any, str]]) -> None:
    shown = [(handle, label) for handle, label in named if label]
    legend_above(axes, [handle for handle, _ in shown], [label for _, label in shown])
