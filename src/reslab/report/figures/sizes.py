"""The sizes of pictures: one dot a size, larger where there are more."""

from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

from reslab.report.plots.style import GRID, SERIES, empty_panel, legend_above, styled

Sizes = Mapping[str, Sequence[tuple[int, int]]]
_LOG_SPAN = 8.0


def sizes_figure(sizes: Sizes) -> Figure:
    """Height against width in pixels, (height, width) of each picture by split; logarithmic where they span much.

    The area of a dot grows with the number of pictures of that size; the thin line is the square.
    """
    with styled():
        figure, axes = empty_panel(4.6, 3.6)
        every = [side for split in sizes.values() for size in split for side in size]
        low, high = min(every), max(every)
        margin = max(1.0, 0.04 * (high - low))
        axes.plot([low, high], [low, high], color=GRID, linewidth=1.2, zorder=0)
        handles = []
        for place, (_, found) in enumerate(sizes.items()):
            times = Counter(found)
            most = max(times.values())
            handles.append(
                axes.scatter(
                    [width for _, width in times], [height for height, _ in times],
                    s=[14 + 150 * (number / most if most > 1 else 0) for number in times.values()],
                    color=SERIES[place % len(SERIES)], alpha=0.55, linewidth=0,
                )
            )  # fmt: skip
        axes.grid(True, axis="both")
        axes.set_xlabel("width")
        axes.set_ylabel("height")
        if high > _LOG_SPAN * low:
            for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
                scale("log")
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(low - margin, high + margin)
            axes.set_ylim(low - margin, high + margin)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        legend_above(axes, handles, list(sizes))
        return figure
