"""Profiles over the blocks or layers of a study's networks, a panel for each group of rows (He et al. 2015, Fig. 7)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.pages.study_results import StudyPage, panel_title
from reslab.report.plots.study_style import (
    add_legend_below,
    add_stamp,
    make_panels,
    mark_not_run,
    row_styles,
    set_panel_title,
    share_y_limits,
)
from reslab.report.plots.style import format_log_tick, plot_style
from reslab.spec.study import FigurePanel, FigureSpec

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
