"""Error and loss of a study against iterations, in the papers' layouts, and the style of all figures of a study.

He et al. 2015, Figs. 1 and 6; He et al. 2016, Figs. 3 and 6. A row's curve is the mean over its seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from reslab.report.colors import BLUE, GREEN, GRID, INK, MAGENTA, MUTED, PLAIN, RESIDUAL
from reslab.report.pages.study_results import StudyPage, StudyRow, eval_split_name, panel_title, reported_split
from reslab.report.plots.style import DASHED, MIN_FONT_POINTS, make_panels, plot_style
from reslab.report.series import equal_windows
from reslab.spec.study import FigureSpec

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


_MIN_POINTS_TO_SMOOTH = 40


@dataclass(frozen=True)
class SeedCurve:
    """The mean over the seeds against iterations, with their minimum and maximum; empty where nothing was logged."""

    x: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.x)

    def mean_at(self, fraction: float) -> float:
        """Return the mean at a fraction of the curve, 1 for its end."""
        return self.mean[min(len(self.mean) - 1, int(fraction * len(self.mean)))]


def error_curve(row: StudyRow, kind: str) -> SeedCurve:
    """Return the error in percent, of `train` (means over equal windows of batches, smoothed) or `eval`."""
    return _seed_curve(row, kind, "top1", lambda top1: 100 * (1 - top1))


def loss_curve(row: StudyRow, kind: str) -> SeedCurve:
    """Return the loss, of `train` or `eval`."""
    return _seed_curve(row, kind, "loss", lambda loss: loss)


def _seed_curve(row: StudyRow, kind: str, key: str, transform: Any) -> SeedCurve:
    seed_points = [arrays for arrays in (_log_points(run.log, kind, key) for run in row.runs) if len(arrays[0])]
    if not seed_points:
        return SeedCurve()
    last_step = min(x[-1] for x, _ in seed_points)
    steps = seed_points[0][0][seed_points[0][0] <= last_step]
    values = np.stack(
        [np.interp(steps, x, _smooth(transform(y)) if kind == "train" else transform(y)) for x, y in seed_points]
    )
    return SeedCurve(*(tuple(map(float, array)) for array in (steps, values.mean(0), values.min(0), values.max(0))))


def _log_points(log: Sequence[Mapping[str, Any]], kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    records = [
        record for record in log if record.get("kind") == kind and "step" in record and record.get(key) is not None
    ]
    if kind == "eval" and records:
        records = [record for record in records if record.get("split") == reported_split(records)]
    pairs = [(float(record["step"]), float(record[key])) for record in records if math.isfinite(float(record[key]))]
    by_step = dict(sorted(dict(pairs).items()))
    steps: Sequence[float] = list(by_step)
    values: Sequence[float] = list(by_step.values())
    if kind == "train":  # their records are means over unequal numbers of steps
        steps, values = equal_windows(steps, values)
    return np.array(steps), np.array(values)


def _smooth(y: np.ndarray) -> np.ndarray:
    if len(y) < _MIN_POINTS_TO_SMOOTH:
        return y
    max_radius = max(1, len(y) // 80)
    radii = [min(max_radius, index, len(y) - 1 - index) for index in range(len(y))]
    return np.array([y[index - radius : index + radius + 1].mean() for index, radius in enumerate(radii)])


_EARLY_FRACTION = 0.15
CurveFn = Callable[[StudyRow, str], SeedCurve]


def plot_error_curves(page: StudyPage, spec: FigureSpec, stamp_text: str) -> Figure:
    """Plot training error dashed and evaluation error bold, a panel for each group of rows, all on one scale."""
    with plot_style():
        figure, all_axes = make_panels(len(spec.panels), *_figure_size(len(spec.panels)))
        panel_rows = [page.select_rows(panel.rows) for panel in spec.panels]
        styles = row_styles(page.select_rows(spec.rows))
        error_limit = _compute_error_limit(
            [error_curve(row, kind) for rows in panel_rows for row in rows for kind in ("train", "eval")]
        )
        for axes, panel, rows in zip(all_axes, spec.panels, panel_rows, strict=True):
            set_panel_title(axes, panel_title(page, panel))
            _draw_seed_curves(axes, rows, styles, {"train": error_curve, "eval": error_curve})
            _finish_error_axes(axes, error_limit)
        add_stamp(figure, stamp_text)
        return figure


def plot_train_then_test(page: StudyPage, spec: FigureSpec, stamp_text: str) -> Figure:
    """Plot training error on the left and evaluation error on the right, all rows in both (He et al. 2015, Fig. 1)."""
    with plot_style():
        figure, all_axes = make_panels(2, *_figure_size(2))
        rows = page.select_rows(spec.rows)
        styles = row_styles(rows)
        error_limit = _compute_error_limit([error_curve(row, kind) for row in rows for kind in ("train", "eval")])
        for axes, kind, name in zip(all_axes, ("train", "eval"), ("training", eval_split_name(rows)), strict=True):
            set_panel_title(axes, f"{name} error")
            _draw_seed_curves(axes, rows, styles, {kind: error_curve}, bold=True)
            _finish_error_axes(axes, error_limit)
        add_stamp(figure, stamp_text)
        return figure


def plot_loss_and_error(page: StudyPage, spec: FigureSpec, stamp_text: str) -> Figure:
    """Plot training loss dashed (left axis, log scale) and evaluation error bold (right axis; He et al. 2016, Fig. 6).

    All panels share both scales.
    """
    with plot_style():
        num_panels = len(spec.panels)
        width, height = _figure_size(num_panels)
        figure, all_axes = make_panels(num_panels, width, height * -(-num_panels // 2), columns=min(2, num_panels))
        all_rows = page.select_rows(spec.rows)
        styles = row_styles(all_rows)
        error_limit = _compute_error_limit([error_curve(row, "eval") for row in all_rows])
        loss_axes = []
        for axes, panel in zip(all_axes, spec.panels, strict=True):
            set_panel_title(axes, panel_title(page, panel))
            rows = page.select_rows(panel.rows)
            right_axes = axes.twinx()
            _draw_seed_curves(axes, rows, styles, {"train": loss_curve}, show_legend=False)
            _draw_seed_curves(right_axes, rows, styles, {"eval": error_curve})
            if not any(loss_curve(row, "train") for row in rows):
                right_axes.set_axis_off()
                mark_not_run(axes)
                continue
            format_iteration_axis(axes)
            _format_loss_axis(axes)
            loss_axes.append(axes)
            format_percent_axis(right_axes)
            right_axes.grid(False)
            right_axes.set_ylim(0, error_limit)
            right_axes.set_ylabel(f"{eval_split_name(all_rows)} error (bold)")
        share_y_limits(loss_axes)
        add_stamp(figure, stamp_text)
        return figure


def _figure_size(num_panels: int) -> tuple[float, float]:
    return (9.2, 4.0) if num_panels > 1 else (4.9, 3.8)


def _draw_seed_curves(
    axes: Axes,
    rows: Sequence[StudyRow],
    styles: Mapping[str, RowStyle],
    curve_fns: Mapping[str, CurveFn],
    *,
    bold: bool = False,
    show_legend: bool = True,
) -> None:
    handles: list[Any] = []
    labels: list[str] = []
    for row in rows:
        style = styles[row.row.name]
        for kind, curve_fn in curve_fns.items():
            curve = curve_fn(row, kind)
            if not curve:
                continue
            is_main = bold or kind == "eval"
            lines = axes.plot(
                curve.x, curve.mean, color=style.color, linewidth=2.1 if is_main else 1.1,
                linestyle="-" if is_main else DASHED, alpha=style.alpha * (1.0 if is_main else 0.85),
                zorder=3 if is_main else 2,
            )  # fmt: skip
            if is_main and len(row.runs) > 1:
                axes.fill_between(curve.x, curve.low, curve.high, color=style.color, alpha=0.14, linewidth=0)
            if is_main or "eval" not in curve_fns:
                handles.append(lines[0])
                labels.append(row.row.name)
    if show_legend:
        add_legend_below(axes, handles, labels)


def _finish_error_axes(axes: Axes, error_limit: float) -> None:
    if not axes.has_data():
        mark_not_run(axes)
        return
    format_iteration_axis(axes)
    format_percent_axis(axes)
    axes.set_ylim(0, error_limit)


def _compute_error_limit(curves: Sequence[SeedCurve]) -> float:
    """Return the end of the error axis: errors of the first 15 % of training may leave the plot, as in the papers."""
    errors = [curve.mean_at(_EARLY_FRACTION) for curve in curves if curve]
    return min(100.0, 1.1 * max(errors)) if errors else 100.0


def _format_loss_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylabel("training loss (dashed)", color=MUTED)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
