"""The loss against the learning rate, with the rate that is suggested."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reslab.report.plots.style import BLUE, MUTED, VERMILION, empty_panel, legend_above, styled
from reslab.report.rate_page import RatePage

_INCHES = (7.2, 3.6)
_SHOWN = 1.6


def rate_search_figure(page: RatePage) -> Figure:
    """Each step's loss pale, its mean strong, against the rate (logarithmic); what diverges leaves the panel."""
    with styled():
        figure, axes = empty_panel(*_INCHES)
        axes.plot(page.rates, page.losses, color=BLUE, alpha=0.3, linewidth=0.9)
        handles = [axes.plot(page.rates, page.smoothed, color=BLUE, linewidth=1.9)[0]]
        labels = ["loss, smoothed"]
        for rate, colour, name in ((page.suggestion, VERMILION, "steepest"), (page.lowest, MUTED, "lowest")):
            if rate is not None:
                handles.append(axes.axvline(rate, color=colour, linewidth=1.4, linestyle=(0, (3.2, 2.0))))
                labels.append(f"{name}, {rate:.2g}")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
        low, start = min(page.smoothed), page.smoothed[0]
        top = max(_SHOWN * start, low + 1e-3)
        if math.isfinite(top) and max(page.losses) > top:
            axes.set_ylim(max(0.0, low - 0.1 * (top - low)), top)
        legend_above(axes, handles, labels)
        return figure
