"""The style that all figures of a study share: panels, the colors of rows, legends, and the scale stamped inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from reslab.report.colors import BLUE, GREEN, GRID, INK, MAGENTA, MUTED, PLAIN, RESIDUAL
from reslab.report.pages.study_results import StudyRow
from reslab.report.plots.style import MIN_FONT_POINTS

_LEGEND_OFFSET_INCHES = 0.5
_RESIDUAL_COLORS = (RESIDUAL, GREEN, MAGENTA, BLUE, INK, MUTED)
_LIGHTEST_ALPHA = 0.35


@dataclass(frozen=True)
class RowStyle:
    """The color and opacity of a row's line."""

    color: str
    alpha: float = 1.0


def row_styles(rows: Sequence[StudyRow]) -> dict[str, RowStyle]:
    """Return the style of each row of a figure, the same in all its panels."""
    styles = group_styles([[row] for row in rows])
    return {row.row.name: style for row, style in zip(rows, styles, strict=True)}


def group_styles(groups: Sequence[Sequence[StudyRow]]) -> list[RowStyle]:
    """Return the style of each group of rows.

    Plain and residual networks are always ochre and violet; beside each other they get darker from group to group. A
    figure of residual networks alone has a color for each.
    """
    is_plain = [bool(group) and all(row.is_plain for row in group) for group in groups]
    if not any(is_plain):
        return [RowStyle(_RESIDUAL_COLORS[i % len(_RESIDUAL_COLORS)]) for i in range(len(groups))]
    return [
        RowStyle(PLAIN if plain else RESIDUAL, _shade(is_plain[:i].count(plain), is_plain.count(plain)))
        for i, plain in enumerate(is_plain)
    ]


def _shade(rank: int, count: int) -> float:
    return 1.0 if count == 1 else _LIGHTEST_ALPHA + (1 - _LIGHTEST_ALPHA) * rank / (count - 1)


def make_panels(
    num_panels: int, width_inches: float, height_inches: float, *, columns: int = 0
) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels in rows of `columns` (0: all in one row), and their axes."""
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
    """Write the scale in the lower right corner, so that a copy of the figure still states it."""
    figure.supxlabel(text, x=0.995, ha="right", fontsize=MIN_FONT_POINTS, color=MUTED)


def set_panel_title(axes: Axes, text: str) -> None:
    """Write a panel's title above its left edge."""
    axes.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=8.0)


def add_legend_below(axes: Axes, handles: list[Any], labels: list[str], columns: int = 0) -> None:
    """Add a legend below the axes, in as many columns as fit, to be read line by line."""
    if not handles:
        return
    num_entries = len(handles)
    columns = columns or max(1, min(num_entries, 60 // (5 + max(map(len, labels)))))
    columns = -(-num_entries // -(-num_entries // columns))
    # matplotlib fills a legend column by column.
    order = [i for column in range(columns) for i in range(column, num_entries, columns)]
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    transform = axes.transAxes + ScaledTranslation(0.0, -_LEGEND_OFFSET_INCHES, axes.figure.dpi_scale_trans)
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.0, 0.0), bbox_transform=transform, ncols=columns,
        borderaxespad=0.0, handlelength=1.6, columnspacing=1.3, handletextpad=0.5, borderpad=0.0,
        fontsize=MIN_FONT_POINTS,
    )  # fmt: skip


def format_iteration_axis(axes: Axes) -> None:
    """Label the x axis with iterations, from 0."""
    axes.set_xlabel("iterations")
    axes.margins(x=0.0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 10_000 else f"{x:,.0f}"))


def format_percent_axis(axes: Axes) -> None:
    """Label the y axis with percent."""
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{round(y, 6):g} %"))


def mark_not_run(axes: Axes) -> None:
    """Mark empty axes as not run."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.spines["bottom"].set_color(GRID)


def share_y_limits(all_axes: Sequence[Axes]) -> None:
    """Give all axes that have data the same y range, so that panels can be compared."""
    with_data = [axes for axes in all_axes if axes.has_data()]
    limits = [axes.get_ylim() for axes in with_data]
    for axes in with_data:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
