"""What every figure of a study shares: panels of one look, the lines of a row, and the scale stamped inside."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from reslab.report.plots.style import GRID, INK, MUTED, SERIES

DASHES = (0, (3.2, 2.0))
_LEGEND_INCHES = 0.5
_COLOURS = (*SERIES, INK, MUTED)


def colour(place: int) -> str:
    """The colour of the row at this place of its panel; six, then again from the first."""
    return _COLOURS[place % len(_COLOURS)]


def panels(count: int, width_inches: float, height_inches: float, *, columns: int = 0) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes in rows of `columns` (all in one row where 0), laid out to hold labels and stamp."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    columns = columns or count
    engine = figure.get_layout_engine()
    if engine is not None and count > columns:
        engine.set(h_pad=0.14)  # type: ignore[call-arg]
    grid = figure.subplots(-(-count // columns), columns, squeeze=False)
    axes = [axes for row in grid for axes in row]
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def stamp(figure: Figure, words: str) -> None:
    """The scale in the lower right corner, so that a figure that is copied away still tells it."""
    figure.supxlabel(words, x=0.995, ha="right", fontsize=8.0, color=MUTED)


def title(axes: Axes, words: str) -> None:
    """The panel's title, above its left edge; room is left for a legend between."""
    axes.set_title(words, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=8.0)


def legend(axes: Axes, handles: list[Any], labels: list[str], columns: int = 0) -> None:
    """The names of the rows below the axes, read line by line, in as many columns as fit and equally long lines."""
    if not handles:
        return
    count = len(handles)
    columns = columns or max(1, min(count, 60 // (5 + max(map(len, labels)))))
    columns = -(-count // -(-count // columns))
    # matplotlib fills column after column.
    across = [each for column in range(columns) for each in range(column, count, columns)]
    handles, labels = [handles[each] for each in across], [labels[each] for each in across]
    below = axes.transAxes + ScaledTranslation(0.0, -_LEGEND_INCHES, axes.figure.dpi_scale_trans)
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.0, 0.0), bbox_transform=below, ncols=columns,
        borderaxespad=0.0, handlelength=1.6, columnspacing=1.3, handletextpad=0.5, borderpad=0.0, fontsize=9.0,
    )  # fmt: skip


def iterations(axes: Axes) -> None:
    """The axis of iterations: from 0, in thousands written out."""
    axes.set_xlabel("iterations")
    axes.margins(x=0.0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 10_000 else f"{x:,.0f}"))


def percents(axes: Axes) -> None:
    """The axis of errors in percent."""
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(y, 6):g} %"))


def nothing_yet(axes: Axes) -> None:
    """Empty axes that say so."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.spines["bottom"].set_color(GRID)
