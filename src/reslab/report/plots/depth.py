"""A measure at each block or layer of a network, from the input on the left to the output on the right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reslab.report.colors import MUTED, network_color
from reslab.report.plots.style import (
    DASHED,
    DOTTED,
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
