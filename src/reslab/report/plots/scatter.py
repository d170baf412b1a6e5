"""Scatter plots: predicted against true values."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from reslab.report.colors import EVALUATION, MUTED
from reslab.report.plots.style import DASHED, PLOT_INCHES, make_figure, plot_style

_MAX_OPAQUE_POINTS = 200


def plot_predicted_against_true(true: Sequence[float], predicted: Sequence[float], name: str) -> Figure:
    """Plot one dot a sample, both axes with the same limits, and the line on which they are equal."""
    with plot_style():
        figure, axes = make_figure(PLOT_INCHES * 0.8, PLOT_INCHES * 0.8)
        low, high = min(*true, *predicted), max(*true, *predicted)
        margin = 0.04 * (high - low) or 0.5
        limits = low - margin, high + margin
        axes.plot(limits, limits, color=MUTED, linewidth=1.1, linestyle=DASHED)
        alpha = 0.75 if len(true) <= _MAX_OPAQUE_POINTS else 0.3
        axes.plot(
            true, predicted, color=EVALUATION, marker="o", markersize=4.0, linestyle="none", alpha=alpha,
            markeredgewidth=0,
        )  # fmt: skip
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        return figure
