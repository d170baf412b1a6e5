"""The plots of a study: values beside the reported ones, a metric against depth, profiles over blocks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.colors import EVALUATION, INK, MUTED
from reslab.report.pages.study_results import StudyPage, StudyRow, metric_display_name, panel_title
from reslab.report.plots.study_curves import (
    RowStyle,
    add_legend_below,
    add_stamp,
    group_styles,
    mark_not_run,
    plot_error_curves,
    plot_loss_and_error,
    plot_train_then_test,
    row_styles,
    set_panel_title,
    share_y_limits,
)
from reslab.report.plots.style import MIN_FONT_POINTS, format_log_tick, make_panels, plot_style
from reslab.spec.study import FigurePanel, FigureSpec, StudyMetric, get_metric

_ROW_INCHES = 0.27


def plot_against_reported(page: StudyPage, stamp_text: str) -> Figure:
    """Plot a line for each row: the reported value on the left, ours on the right; at full scale both on one axis.

    A small dot is a seed, a large one the mean with its standard deviation as a bar; a diamond is the reported value.
    """
    rows = [row for row in page.rows if row.row.reported is not None or row.values()]
    with plot_style():
        height = 1.5 + _ROW_INCHES * len(rows)
        is_shared_axis = page.scale == "full"
        figure, all_axes = make_panels(1 if is_shared_axis else 2, 9.2, height)
        left, right = all_axes[0], all_axes[-1]
        _draw_reported(left, rows)
        _draw_ours(right, rows)
        for axes in all_axes:
            _format_row_axes(axes, rows, show_names=axes is left)
        if not is_shared_axis:
            set_panel_title(left, "reported")
            set_panel_title(right, f"ours, {page.scale} scale")
        add_stamp(figure, stamp_text)
        return figure


def plot_metric_lines(page: StudyPage, spec: FigureSpec, stamp_text: str) -> Figure:
    """Plot a metric against a number, a line for each group of rows; at full scale the reported values are dotted."""
    with plot_style():
        figure, (axes,) = make_panels(1, 4.9, 3.6)
        handles: list[Any] = []
        labels: list[str] = []
        styles = group_styles([page.select_rows(panel.rows) for panel in spec.panels])
        for panel, style in zip(spec.panels, styles, strict=True):
            rows = [(position, page.row(name)) for position, name in zip(panel.x, panel.rows, strict=True)]
            present_rows = [(position, row) for position, row in rows if row is not None]
            metric = spec.metric or (present_rows[0][1].row.metric if present_rows else "test_error")
            if page.scale == "full":
                _draw_reported_line(axes, present_rows, metric, style)
            handle = _draw_our_line(axes, present_rows, metric, style)
            if handle is not None:
                handles.append(handle)
                labels.append(panel.title)
        if not axes.has_data():
            mark_not_run(axes)
        else:
            _format_metric_axes(axes, spec, get_metric(metric))
        add_legend_below(axes, handles, labels)
        add_stamp(figure, stamp_text)
        return figure


def _draw_reported(axes: Axes, rows: Sequence[StudyRow]) -> None:
    for index, row in enumerate(rows):
        reported = row.row.reported
        if reported is None:
            continue
        if reported.value is None:
            axes.text(0.98, index, reported.note.partition(":")[0] or "none", transform=axes.get_yaxis_transform(),
                      ha="right", va="bottom", fontsize=MIN_FONT_POINTS, color=INK)  # fmt: skip
            continue
        if reported.std:
            axes.plot(
                [reported.value - reported.std, reported.value + reported.std],
                [index, index],
                color=INK,
                linewidth=1.4,
            )
        axes.plot(
            reported.value, index, marker="D", markersize=5.5, color=INK,
            fillstyle="full" if reported.provenance == "verified" else "none", linestyle="",
        )  # fmt: skip


def _draw_ours(axes: Axes, rows: Sequence[StudyRow]) -> None:
    for index, row in enumerate(rows):
        values, mean, std = row.values(), row.mean(), row.std()
        if mean is None:
            axes.text(0.98, index, "not run" if not row.runs else "NaN", transform=axes.get_yaxis_transform(),
                      ha="right", va="bottom", fontsize=MIN_FONT_POINTS, color=MUTED)  # fmt: skip
            continue
        if std is not None:
            axes.plot([mean - std, mean + std], [index, index], color=EVALUATION, linewidth=1.6)
            axes.plot(
                values, [index] * len(values), "o", markersize=3.4, color=EVALUATION, alpha=0.4, markeredgewidth=0
            )
        axes.plot(mean, index, "o", markersize=6.2, color=EVALUATION)


def _format_row_axes(axes: Axes, rows: Sequence[StudyRow], *, show_names: bool) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.row.name for row in rows] if show_names else [""] * len(rows), color=INK)
    axes.grid(True, axis="both")
    axes.margins(x=0.12)
    units = {row.metric.unit for row in rows}
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: _format_tick(x, units.copy().pop() if len(units) == 1 else ""))
    )
    if len({row.row.metric for row in rows}) == 1 and rows:
        axes.set_xlabel(metric_display_name(rows[0].row.metric))


def _format_tick(value: float, unit: str) -> str:
    return f"{round(value, 6):g} {unit}".strip() if unit == "%" else f"{round(value, 6):g}"


def _draw_our_line(axes: Axes, rows: Sequence[tuple[float, StudyRow]], metric: str, style: RowStyle) -> Any | None:
    points = [
        (position, row.mean(metric), row.std(metric) or 0.0) for position, row in rows if row.mean(metric) is not None
    ]
    if not points:
        return None
    x, y, stds = zip(*points, strict=True)
    return axes.errorbar(
        x,
        y,
        yerr=stds if any(stds) else None,
        color=style.color,
        alpha=style.alpha,
        marker="o",
        markersize=5.0,
        linewidth=1.9,
        capsize=2.5,
    )


def _draw_reported_line(axes: Axes, rows: Sequence[tuple[float, StudyRow]], metric: str, style: RowStyle) -> None:
    reported_points = [
        (position, row.row.reported) for position, row in rows if row.row.metric == metric and row.row.reported
    ]
    points = [(position, value.value) for position, value in reported_points if value.value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=style.color, marker="D", markersize=4.2, linewidth=1.1,
                  linestyle=(0, (1.0, 2.0)), alpha=0.75, fillstyle="none")  # fmt: skip


def _format_metric_axes(axes: Axes, spec: FigureSpec, metric: StudyMetric) -> None:
    axes.set_xlabel(spec.x_label)
    if "." not in metric.name:
        axes.set_ylabel(metric_display_name(metric.name))
    positions = sorted({position for panel in spec.panels for position in panel.x})
    use_log_scale = min(positions) > 0 and max(positions) >= 8 * min(positions)
    if len(positions) <= 12 and not use_log_scale:
        axes.set_xticks(positions, [f"{position:g}".replace("-", "−") for position in positions])
    elif use_log_scale:
        axes.set_xscale("log")
        axes.set_xticks(positions, [f"{position:g}" for position in positions], minor=False)
        axes.set_xticks([], minor=True)
    axes.margins(x=0.05)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _format_tick(y, metric.unit)))


_LOG_SCALE_RATIO = 30.0
ValuesFn = Callable[[Mapping[str, Any]], Sequence[float]]


def plot_gradient_profiles(page: StudyPage, spec: FigureSpec, stamp_text: str) -> Figure:
    """Plot the norm of the gradient at each block's input on a logarithmic scale that all panels share."""
    with plot_style():
        figure, all_axes = make_panels(len(spec.panels), 9.2 if len(spec.panels) > 1 else 5.8, 3.9)
        for axes, panel in zip(all_axes, spec.panels, strict=True):
            set_panel_title(axes, panel_title(page, panel))
            _draw_profiles(axes, page, panel, spec, _gradient_norms, show_legend=True)
            axes.set_yscale("log")
        share_y_limits(all_axes)
        for axes in all_axes:
            _finish_profile_axes(axes, "block, from input to output")
            _format_log_axis(axes)
        add_stamp(figure, stamp_text)
        return figure


def plot_response_profiles(page: StudyPage, spec: FigureSpec, stamp_text: str) -> Figure:
    """Plot the standard deviation of each layer's response, in layer order above and sorted below."""
    with plot_style():
        num_panels = len(spec.panels)
        figure, all_axes = make_panels(2 * num_panels, 9.2 if num_panels > 1 else 5.8, 6.6, columns=num_panels)
        for index, panel in enumerate(spec.panels):
            upper, lower = all_axes[index], all_axes[num_panels + index]
            set_panel_title(upper, panel_title(page, panel))
            _draw_profiles(upper, page, panel, spec, _response_stds, show_legend=False)
            _draw_profiles(
                lower, page, panel, spec, lambda result: sorted(_response_stds(result), reverse=True), show_legend=True
            )
        use_log_scale = _response_range(page, spec) > _LOG_SCALE_RATIO
        for axes in all_axes:
            axes.set_yscale("log" if use_log_scale else "linear")
        share_y_limits(all_axes)
        for index, axes in enumerate(all_axes):
            _finish_profile_axes(axes, "layer, from input to output" if index < num_panels else "layers, largest first")
            if use_log_scale:
                _format_log_axis(axes)
            else:
                axes.set_ylim(bottom=0)
                axes.yaxis.set_major_locator(MaxNLocator(5))
        add_stamp(figure, stamp_text)
        return figure


def _gradient_norms(result: Mapping[str, Any]) -> list[float]:
    return [float(block["input_norm"]) for block in result["blocks"]]


def _response_stds(result: Mapping[str, Any]) -> list[float]:
    return [float(layer["std"]) for layer in result["layers"]]


def _response_range(page: StudyPage, spec: FigureSpec) -> float:
    """Return the largest response over the smallest."""
    rows = page.select_rows(spec.rows)
    stds = [
        std
        for row in rows
        for result in row.analysis_results(spec.analysis or spec.kind)
        for std in _response_stds(result)
    ]
    return max(stds) / max(min(stds), 1e-12) if stds else 1.0


def _format_log_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(format_log_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_profiles(
    axes: Axes, page: StudyPage, panel: FigurePanel, spec: FigureSpec, values: ValuesFn, *, show_legend: bool
) -> None:
    handles: list[Any] = []
    names: list[str] = []
    styles = row_styles(page.select_rows(spec.rows))
    for name in panel.rows:
        row = page.row(name)
        seed_values = [values(result) for result in row.analysis_results(spec.analysis or spec.kind)] if row else []
        if not seed_values:
            continue
        style = styles[name]
        stacked = np.array(seed_values)
        positions = np.arange(1, stacked.shape[1] + 1)
        handles.append(
            axes.plot(positions, np.median(stacked, 0), color=style.color, alpha=style.alpha, linewidth=1.7)[0]
        )
        axes.fill_between(positions, stacked.min(0), stacked.max(0), color=style.color, alpha=0.15, linewidth=0)
        names.append(name)
    if show_legend:
        add_legend_below(axes, handles, names)


def _finish_profile_axes(axes: Axes, xlabel: str) -> None:
    if not axes.has_data():
        mark_not_run(axes)
        return
    axes.set_xlabel(xlabel)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


STUDY_PLOTS: dict[str, Callable[[StudyPage, FigureSpec, str], Figure]] = {
    "error_curves": plot_error_curves,
    "loss_and_error": plot_loss_and_error,
    "train_then_test": plot_train_then_test,
    "lines": plot_metric_lines,
    "gradients": plot_gradient_profiles,
    "responses": plot_response_profiles,
}
"""The plot of each kind of figure that a study can have."""
