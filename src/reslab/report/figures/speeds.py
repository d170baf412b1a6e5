"""Images a second of each engine and precision, as bars."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reslab.report.format import number
from reslab.report.plots.style import INK, MUTED, SERIES, empty_panel, styled

# A colour a precision, the same in every panel.
_COLOURS = dict(zip(("float32", "bf16", "int8", "fp16"), SERIES, strict=True))


def speed_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """One bar a result, the quickest on top: its median, and a thin line from the slowest round to the quickest."""
    ordered = sorted(results, key=lambda each: each["images_per_second"])
    with styled():
        figure, axes = empty_panel(5.2, 0.8 + 0.32 * len(ordered))
        axes.grid(False, axis="y")
        axes.grid(True, axis="x")
        most = max(max(each["images_per_second_range"]) for each in ordered)
        for place, each in enumerate(ordered):
            value, (slow, quick) = each["images_per_second"], each["images_per_second_range"]
            axes.barh(place, value, height=0.62, color=_COLOURS.get(each["precision"], MUTED))
            axes.plot([slow, quick], [place, place], color=INK, linewidth=1.2)
            axes.text(quick + 0.015 * most, place, number(value, 3), va="center", color=INK)
        axes.set_yticks(range(len(ordered)), [f"{each['engine']}, {each['precision']}" for each in ordered])
        axes.set_xlim(0, 1.13 * most)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.set_xlabel("images/s")
        return figure
