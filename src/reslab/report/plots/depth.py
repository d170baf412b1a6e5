"""A measure at each unit of a network, from the input on the left to the output on the right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from reslab.report.plots.style import MUTED, PALETTE, add_legend_above, make_figure, plot_style

DASHED, DOTTED = (0, (3.2, 2.0)), (0, (1.0, 1.8))


@dataclass(frozen=True)
class DepthProfile:
    """Values from the first unit to the last; those that are no number, or none above 0 on a logarithmic scale, leave
    a gap in the line. An empty `label` keeps it out of the legend; `strength` from 0 to 1 is its opacity."""

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
    xlabel: str = "unit, from the input to the output",
    ylabel: str = "",
    hline: float | None = None,
    as_steps: bool = False,
    from_zero: bool = False,
    stroke_labels: Sequence[str] = (),
) -> Figure:
    """Lines over the units, such as the norm of the gradient at each; `level` draws a thin line across, `up` names the
    measure; `steps` for values that stay and jump, drawn without dots; `strokes` names the solid, dashed, dotted ones.
    """
    with plot_style():
        figure, axes = make_figure(5.8, 3.4)
        if hline is not None:
            axes.axhline(hline, color="#5b6570", linewidth=0.9)
        lines = []
        for index, profile in enumerate(profiles):
            num_overlaid = sum(other.values == profile.values for other in profiles[index + 1 :])
            line = _draw_profile(axes, profile, log, as_steps, num_overlaid)
            lines += [(line, profile.label)] if line is not None else []
        if log:
            _set_log_scale(
                axes, sorted({value for profile in profiles for value in profile.values if value}) if as_steps else ()
            )
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        if from_zero:
            axes.set_ylim(0.0, 1.02 * axes.get_ylim()[1])
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set_xlim(left=max(0.5, axes.get_xlim()[0]))
        axes.set_xlabel(xlabel)
        if ylabel:
            axes.set_ylabel(ylabel)
        legend_entries = [(line, label) for line, label in lines if label]
        linestyles: tuple[Any, ...] = ("-", DASHED, DOTTED)
        legend_entries += [
            (Line2D([], [], color=MUTED, linestyle=linestyle, linewidth=1.5), label)
            for label, linestyle in zip(stroke_labels, linestyles, strict=False)
        ]
        add_legend_above(axes, [line for line, _ in legend_entries], [label for _, label in legend_entries])
        return figure


@dataclass(frozen=True)
class SnapshotCurve:
    """A measure at some steps of a training."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    color_index: int = 0


def plot_snapshots(curves: Sequence[SnapshotCurve], *, log: bool = True, ylabel: str = "") -> Figure:
    """Lines over the steps of training."""
    with plot_style():
        figure, axes = make_figure(5.8, 3.4)
        handles = [
            axes.plot(
                curve.steps, curve.values, color=PALETTE[curve.color_index % len(PALETTE)], marker="o", markersize=3.6
            )[0]
            for curve in curves
        ]
        if log:
            _set_log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("step")
        if ylabel:
            axes.set_ylabel(ylabel)
        add_legend_above(axes, handles, [curve.label for curve in curves])
        return figure


def _draw_profile(axes: Axes, profile: DepthProfile, log: bool, as_steps: bool, num_overlaid: int) -> Line2D | None:
    """A line, wider where as many later ones lie over it, so that it is seen."""
    points = [_value_or_nan(value, log) for value in profile.values]
    if all(math.isnan(point) for point in points):
        return None
    is_secondary = profile.dashed or profile.dotted or as_steps
    return axes.plot(
        range(1, len(points) + 1), points, color=PALETTE[profile.color_index % len(PALETTE)], alpha=profile.alpha,
        marker="" if is_secondary or len(points) > 60 else "o", markersize=3.6,
        linewidth=(1.4 if is_secondary and not as_steps else 1.9) + 3.2 * num_overlaid,
        drawstyle="steps-mid" if as_steps else "default",
        linestyle=DASHED if profile.dashed else DOTTED if profile.dotted else "-",
    )[0]  # fmt: skip


def _value_or_nan(value: float | None, log: bool) -> float:
    """The value, or NaN, which leaves a gap, where it has no place on the scale."""
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return math.nan
    return float(value)


def _set_log_scale(axes: Axes, ticks: Sequence[float] = ()) -> None:
    """A logarithmic scale; a few values that are taken again and again are its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(format_log_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if 1 < len(ticks) <= 8:
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        return
    axes.yaxis.set_major_locator(make_log_locator(*axes.get_ylim()))


def make_log_locator(low: float, high: float) -> Locator:
    """The ticks of a logarithmic axis: powers of ten, with 2 and 5 between on a short one, even steps of 1, 2
    or 5 on a very short one, where those would leave it with a tick or none."""
    ratio = high / low if low > 0 else math.inf
    if ratio < 4:
        return MaxNLocator(5, steps=(1, 2, 5, 10))
    return LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if ratio < 150 else LogLocator(numticks=7)


def format_log_tick(value: float, _: object = None) -> str:
    """A tick of a logarithmic axis: 0.001, 10, 1e-6."""
    return f"{value:g}" if 1e-4 < value < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
