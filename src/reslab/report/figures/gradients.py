"""How large the gradient is at each unit of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.figures.style import SERIES, empty_panel, legend_above, styled


@dataclass(frozen=True)
class Profile:
    """Gradient norms from the first unit to the last; those that are zero or no number are left out of the line."""

    label: str
    norms: Sequence[float]
    colour: int = 0
    dashed: bool = False


def gradient_figure(profiles: Sequence[Profile]) -> Figure:
    """The norm of the gradient at each unit's input, on a logarithmic scale, the input on the left."""
    with styled():
        figure, axes = empty_panel(5.8, 3.4)
        handles, labels = [], []
        for profile in profiles:
            points = [(unit, norm) for unit, norm in enumerate(profile.norms, 1) if 0 < norm < float("inf")]
            if not points:
                continue
            drawn = axes.plot(
                *zip(*points, strict=True), color=SERIES[profile.colour % len(SERIES)],
                marker="" if profile.dashed or len(points) > 60 else "o", markersize=3.6,
                linestyle=(0, (3.2, 2.0)) if profile.dashed else "-", linewidth=1.4 if profile.dashed else 1.9,
            )  # fmt: skip
            handles.append(drawn[0])
            labels.append(profile.label)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(_power))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set_xlim(left=max(0.5, axes.get_xlim()[0]))
        axes.set_xlabel("unit, from the input to the output")
        legend_above(axes, handles, labels)
        return figure


def _power(value: float, _: object) -> str:
    return f"{value:g}" if 1e-4 < value < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
