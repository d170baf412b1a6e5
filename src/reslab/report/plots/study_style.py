"""What every figure of a study shares: panels of one look, the lines of a row, and the scale stamped inside."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from reslab.report.plots.style import GRID, INK, MUTED, PALETTE

DASH_PATTERN = (0, (3.2, 2.0))
_LEGEND_OFFSET_INCHES = 0.5
_COLORS = (*PALETTE, INK, MUTED)


def color_at(index: int) -> str:
    """The colour of the row at this place of its panel; six, then again from the first."""
    return _COLORS[index % len(_COLORS)]


def make_panels(
    num_panels: int, width_inches: float, height_inches: float, *, columns: int = 0
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes in rows of `columns` (all in one row where 0), laid out to hold labels and stamp."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    columns = columns or num_panels
    engine = figure.get_layout_engine()
    if engine is not None and num_panels > columns:
        engine.set(h_pad=0.14)  # type: ignore[call-arg]
    grid = figure.subplots(-(-num_panels // columns), columns, squeeze=False)
    axes = [axes for row in grid for axes in row]
    for unused in axes[num_panels:]:
        unused.set_axis_off()
    return figure, axes[:num_panels]


def add_stamp(figure: Figure, text: str) -> None:
    """The scale in the lower right corner, so that a figure that is copied away still tells it."""
    figure.supxlabel(text, x=0.995, ha="right", fontsize=8.0, color=MUTED)


def set_panel_title(axes: Axes, text: str) -> None:
    """The panel's title, above its left edge; room is left for a legend between."""
    axes.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=8.0)


def add_legend_below(axes: Axes, handles: list[Any], labels: list[str], columns: int = 0) -> None:
    """The names of the rows below the axes, read line by line, in as many columns as fit and equally long lines."""
    if not handles:
        return
    num_entries = len(handles)
    columns = columns or max(1, min(num_entries, 60 // (5 + max(map(len, labels)))))
    columns = -(-num_entries // -(-num_entries // columns))
    # matplotlib fills column after column.
    order = [i for column in range(columns) for i in range(column, num_entries, columns)]
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    transform = axes.transAxes + ScaledTranslation(0.0, -_LEGEND_OFFSET_INCHES, axes.figure.dpi_scale_trans)
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.0, 0.0), bbox_transform=transform, ncols=columns,
        borderaxespad=0.0, handlelength=1.6, columnspacing=1.3, handletextpad=0.5, borderpad=0.0, fontsize=9.0,
    )  # fmt: skip


def format_iteration_axis(axes: Axes) -> None:
    """The axis of iterations: from 0, in thousands written out."""
    axes.set_xlabel("iterations")
    axes.margins(x=0.0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 10_000 else f"{x:,.0f}"))


def format_percent_axis(axes: Axes) -> None:
    """The axis of errors in percent."""
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(y, 6):g} %"))


def mark_not_run(axes: Axes) -> None:
    """Empty axes that say so."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.spines["bottom"].set_color(GRID)
