"""A measure at each unit of a network, from the input on the left to the output on the right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from reslab.report.plots.style import MUTED, SERIES, empty_panel, legend_above, styled

DASHED, DOTTED = (0, (3.2, 2.0)), (0, (1.0, 1.8))


@dataclass(frozen=True)
class Profile:
    """Values from the first unit to the last; those that are no number, or none above 0 on a logarithmic scale, leave
    a gap in the line. An empty `label` keeps it out of the legend; `strength` from 0 to 1 is its opacity."""

    label: str
    norms: Sequence[float | None]
    colour: int = 0
    dashed: bool = False
    dotted: bool = False
    strength: float = 1.0


def depth_figure(
    profiles: Sequence[Profile],
    *,
    log: bool = True,
    across: str = "unit, from the input to the output",
    up: str = "",
    level: float | None = None,
    steps: bool = False,
    from_zero: bool = False,
    strokes: Sequence[str] = (),
) -> Figure:
    """Lines over the units, such as the norm of the gradient at each; `level` draws a thin line across, `up` names the
    measure; `steps` for values that stay and jump, drawn without dots; `strokes` names the solid, dashed, dotted ones.
    """
    with styled():
        figure, axes = empty_panel(5.8, 3.4)
        if level is not None:
            axes.axhline(level, color="#5b6570", linewidth=0.9)
        drawn = []
        for place, profile in enumerate(profiles):
            over = sum(other.norms == profile.norms for other in profiles[place + 1 :])
            line = _line(axes, profile, log, steps, over)
            drawn += [(line, profile.label)] if line is not None else []
        if log:
            _logarithmic(
                axes, sorted({value for profile in profiles for value in profile.norms if value}) if steps else ()
            )
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        if from_zero:
            axes.set_ylim(0.0, 1.02 * axes.get_ylim()[1])
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set_xlim(left=max(0.5, axes.get_xlim()[0]))
        axes.set_xlabel(across)
        if up:
            axes.set_ylabel(up)
        named = [(line, label) for line, label in drawn if label]
        looks: tuple[Any, ...] = ("-", DASHED, DOTTED)
        named += [
            (Line2D([], [], color=MUTED, linestyle=look, linewidth=1.5), label)
            for label, look in zip(strokes, looks, strict=False)
        ]
        legend_above(axes, [line for line, _ in named], [label for _, label in named])
        return figure


@dataclass(frozen=True)
class StepLine:
    """A measure at some steps of a training."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    colour: int = 0


def steps_figure(lines: Sequence[StepLine], *, log: bool = True, up: str = "") -> Figure:
    """Lines over the steps of training."""
    with styled():
        figure, axes = empty_panel(5.8, 3.4)
        drawn = [
            axes.plot(line.steps, line.values, color=SERIES[line.colour % len(SERIES)], marker="o", markersize=3.6)[0]
            for line in lines
        ]
        if log:
            _logarithmic(axes)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("step")
        if up:
            axes.set_ylabel(up)
        legend_above(axes, drawn, [line.label for line in lines])
        return figure


def _line(axes: Axes, profile: Profile, log: bool, steps: bool, num_over: int) -> Line2D | None:
    """A line, wider where as many later ones lie over it, so that it is seen."""
    points = [_drawable(value, log) for value in profile.norms]
    if all(math.isnan(point) for point in points):
        return None
    broken = profile.dashed or profile.dotted or steps
    return axes.plot(
        range(1, len(points) + 1), points, color=SERIES[profile.colour % len(SERIES)], alpha=profile.strength,
        marker="" if broken or len(points) > 60 else "o", markersize=3.6,
        linewidth=(1.4 if broken and not steps else 1.9) + 3.2 * num_over,
        drawstyle="steps-mid" if steps else "default",
        linestyle=DASHED if profile.dashed else DOTTED if profile.dotted else "-",
    )[0]  # fmt: skip


def _drawable(value: float | None, log: bool) -> float:
    """The value, or NaN, which leaves a gap, where it has no place on the scale."""
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return math.nan
    return float(value)


def _logarithmic(axes: Axes, ticks: Sequence[float] = ()) -> None:
    """A logarithmic scale; a few values that are taken again and again are its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if 1 < len(ticks) <= 8:
        axes.yaxis.set_major_locator(FixedLocator(ticks))
        return
    axes.yaxis.set_major_locator(log_ticks(*axes.get_ylim()))


def log_ticks(low: float, high: float) -> Locator:
    """The ticks of a logarithmic axis: powers of ten, with 2 and 5 between on a short one, even steps of 1, 2
    or 5 on a very short one, where those would leave it with a tick or none."""
    reach = high / low if low > 0 else math.inf
    if reach < 4:
        return MaxNLocator(5, steps=(1, 2, 5, 10))
    return LogLocator(subs=(1.0, 2.0, 5.0), numticks=12) if reach < 150 else LogLocator(numticks=7)


def power(value: float, _: object = None) -> str:
    """A tick of a logarithmic axis: 0.001, 10, 1e-6."""
    return f"{value:g}" if 1e-4 < value < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
