"""What a question found at each unit or layer, a panel a group of rows (He et al. 2015, Fig. 7)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.plots.depth import power
from reslab.report.plots.study_style import colour, legend, nothing_yet, panels, stamp, title
from reslab.report.plots.style import styled
from reslab.report.study_page import StudyPage, StudyRow
from reslab.spec.drawing import Drawing, Panel

_LOG_SPAN = 30.0
Values = Callable[[Mapping[str, Any]], Sequence[float]]


def gradients(page: StudyPage, drawing: Drawing, words: str) -> Figure:
    """The norm of the gradient at each unit's input, logarithmic, one scale for all panels."""
    with styled():
        figure, every = panels(len(drawing.panels), 9.2 if len(drawing.panels) > 1 else 5.8, 3.9)
        for axes, panel in zip(every, drawing.panels, strict=True):
            title(axes, panel.title)
            _draw(axes, page, panel, drawing, _norms, labels=True)
            axes.set_yscale("log")
        _same_scale(every)
        for axes in every:
            _finish(axes, "unit, from the input to the output")
            _logarithmic(axes)
        stamp(figure, words)
        return figure


def responses(page: StudyPage, drawing: Drawing, words: str) -> Figure:
    """The standard deviation of each layer's response: in layer order above, sorted from the largest below."""
    with styled():
        count = len(drawing.panels)
        figure, every = panels(2 * count, 9.2 if count > 1 else 5.8, 6.6, columns=count)
        for place, panel in enumerate(drawing.panels):
            upper, lower = every[place], every[count + place]
            title(upper, panel.title)
            _draw(upper, page, panel, drawing, _deviations, labels=False)
            _draw(lower, page, panel, drawing, lambda answer: sorted(_deviations(answer), reverse=True), labels=True)
        spans = _span(page, drawing) > _LOG_SPAN
        for axes in every:
            axes.set_yscale("log" if spans else "linear")
        _same_scale(every)
        for place, axes in enumerate(every):
            _finish(axes, "layer, from the input to the output" if place < count else "layers, the largest first")
            if spans:
                _logarithmic(axes)
            else:
                axes.set_ylim(bottom=0)
                axes.yaxis.set_major_locator(MaxNLocator(5))
        stamp(figure, words)
        return figure


def answers_of(row: StudyRow, question: str) -> list[Mapping[str, Any]]:
    """What a question found in the row's network, one answer a seed."""
    return [run.answers[question] for run in row.runs if question in run.answers]


def _norms(answer: Mapping[str, Any]) -> list[float]:
    return [float(unit["input"]) for unit in answer["units"]]


def _deviations(answer: Mapping[str, Any]) -> list[float]:
    return [float(layer["std"]) for layer in answer["layers"]]


def _span(page: StudyPage, drawing: Drawing) -> float:
    """How many times the smallest response the largest is."""
    rows = [row for row in map(page.row, drawing.rows) if row is not None]
    every = [
        std
        for row in rows
        for answer in answers_of(row, drawing.question or drawing.kind)
        for std in _deviations(answer)
    ]
    return max(every) / max(min(every), 1e-12) if every else 1.0


def _logarithmic(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, page: StudyPage, panel: Panel, drawing: Drawing, values: Values, *, labels: bool) -> None:
    handles: list[Any] = []
    names: list[str] = []
    for place, name in enumerate(panel.rows):
        row = page.row(name)
        found = [values(answer) for answer in answers_of(row, drawing.question or drawing.kind)] if row else []
        if not found:
            continue
        each = np.array(found)
        across = np.arange(1, each.shape[1] + 1)
        handles.append(axes.plot(across, np.median(each, 0), color=colour(place), linewidth=1.7)[0])
        axes.fill_between(across, each.min(0), each.max(0), color=colour(place), alpha=0.15, linewidth=0)
        names.append(name)
    if labels:
        legend(axes, handles, names)


def _same_scale(every: Sequence[Axes]) -> None:
    """One vertical scale for all, so that panels can be held against each other."""
    drawn = [axes.get_ylim() for axes in every if axes.has_data()]
    for axes in every:
        if axes.has_data():
            axes.set_ylim(min(low for low, _ in drawn), max(high for _, high in drawn))


def _finish(axes: Axes, across: str) -> None:
    if not axes.has_data():
        nothing_yet(axes)
        return
    axes.set_xlabel(across)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
