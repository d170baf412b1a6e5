"""The rows of a study as numbers: ours beside what the paper reports, and a metric against depth or another number.

What a question found at each unit or layer, a panel a group of rows (He et al. 2015, Fig. 7).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reslab.report.pages.study_text import StudyPage, StudyRow, metric_name
from reslab.report.plots.depth import power
from reslab.report.plots.study_style import colour, legend, nothing_yet, panels, stamp, title
from reslab.report.plots.style import BLUE, INK, MUTED, VERMILION, styled
from reslab.spec.study import Drawing, Metric, Panel, metric_of

_ROW_INCHES = 0.27


def against_reported(page: StudyPage, words: str) -> Figure:
    """A line a row: what the paper reports on the left, ours on the right, each on its own scale; at full scale on one.

    A small dot is a seed, a large one their mean, its bar the standard deviation; a diamond is the paper's.
    """
    rows = [row for row in page.rows if row.row.reported is not None or row.values()]
    with styled():
        height = 1.5 + _ROW_INCHES * len(rows)
        together = page.scale == "full"
        figure, every = panels(1 if together else 2, 9.2, height)
        left, right = every[0], every[-1]
        _reported(left, rows)
        _ours(right, rows)
        for axes in every:
            _lay_out(axes, rows, names=axes is left)
        if not together:
            title(left, "reported")
            title(right, f"ours, {page.scale} scale")
        stamp(figure, words)
        return figure


def lines(page: StudyPage, drawing: Drawing, words: str) -> Figure:
    """A metric against a number, a line for each group of rows; at full scale the reported values dotted."""
    with styled():
        figure, (axes,) = panels(1, 5.0, 3.6)
        handles: list[Any] = []
        labels: list[str] = []
        for place, panel in enumerate(drawing.panels):
            rows = [(at, page.row(name)) for at, name in zip(panel.at, panel.rows, strict=True)]
            kept = [(at, row) for at, row in rows if row is not None]
            metric = drawing.metric or (kept[0][1].row.metric if kept else "test_error")
            if page.scale == "full":
                _reported_line(axes, kept, metric, colour(place))
            drawn = _our_line(axes, kept, metric, colour(place))
            if drawn is not None:
                handles.append(drawn)
                labels.append(panel.title)
        if not axes.has_data():
            nothing_yet(axes)
        else:
            _number_axes(axes, drawing, metric_of(metric))
        legend(axes, handles, labels)
        stamp(figure, words)
        return figure


def _reported(axes: Axes, rows: Sequence[StudyRow]) -> None:
    for place, row in enumerate(rows):
        told = row.row.reported
        if told is None:
            continue
        if told.value is None:
            axes.text(0.98, place, told.note.partition(":")[0] or "none", transform=axes.get_yaxis_transform(),
                      ha="right", va="bottom", fontsize=8.5, color=VERMILION)  # fmt: skip
            continue
        if told.std:
            axes.plot([told.value - told.std, told.value + told.std], [place, place], color=VERMILION, linewidth=1.4)
        axes.plot(
            told.value, place, marker="D", markersize=5.5, color=VERMILION,
            fillstyle="full" if told.confidence == "read" else "none", linestyle="",
        )  # fmt: skip


def _ours(axes: Axes, rows: Sequence[StudyRow]) -> None:
    for place, row in enumerate(rows):
        values, mean, std = row.values(), row.mean(), row.std()
        if mean is None:
            axes.text(0.98, place, "not run" if not row.runs else "no number", transform=axes.get_yaxis_transform(),
                      ha="right", va="bottom", fontsize=8.5, color=MUTED)  # fmt: skip
            continue
        if std is not None:
            axes.plot([mean - std, mean + std], [place, place], color=BLUE, linewidth=1.6)
            axes.plot(values, [place] * len(values), "o", markersize=3.4, color=BLUE, alpha=0.4, markeredgewidth=0)
        axes.plot(mean, place, "o", markersize=6.2, color=BLUE)


def _lay_out(axes: Axes, rows: Sequence[StudyRow], *, names: bool) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.row.name for row in rows] if names else [""] * len(rows), color=INK)
    axes.grid(True, axis="both")
    axes.margins(x=0.12)
    units = {row.metric.unit for row in rows}
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x, units.copy().pop() if len(units) == 1 else "")))
    if len({row.row.metric for row in rows}) == 1 and rows:
        axes.set_xlabel(metric_name(rows[0].row.metric))


def _tick(value: float, unit: str) -> str:
    return f"{round(value, 6):g} {unit}".strip() if unit == "%" else f"{round(value, 6):g}"


def _our_line(axes: Axes, rows: Sequence[tuple[float, StudyRow]], metric: str, shade: str) -> Any | None:
    points = [(at, row.mean(metric), row.std(metric) or 0.0) for at, row in rows if row.mean(metric) is not None]
    if not points:
        return None
    x, y, spread = zip(*points, strict=True)
    return axes.errorbar(
        x, y, yerr=spread if any(spread) else None, color=shade, marker="o", markersize=5.0, linewidth=1.9, capsize=2.5
    )


def _reported_line(axes: Axes, rows: Sequence[tuple[float, StudyRow]], metric: str, shade: str) -> None:
    told = [(at, row.row.reported) for at, row in rows if row.row.metric == metric and row.row.reported]
    points = [(at, value.value) for at, value in told if value.value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=shade, marker="D", markersize=4.2, linewidth=1.1,
                  linestyle=(0, (1.0, 2.0)), alpha=0.75, fillstyle="none")  # fmt: skip


def _number_axes(axes: Axes, drawing: Drawing, metric: Metric) -> None:
    axes.set_xlabel(drawing.axis)
    if "." not in metric.name:
        axes.set_ylabel(metric_name(metric.name))
    places = sorted({at for panel in drawing.panels for at in panel.at})
    spans_much = min(places) > 0 and max(places) >= 8 * min(places)
    if len(places) <= 12 and not spans_much:
        axes.set_xticks(places, [f"{at:g}".replace("-", "−") for at in places])
    elif spans_much:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{at:g}" for at in places], minor=False)
        axes.set_xticks([], minor=True)
    axes.margins(x=0.05)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y, metric.unit)))


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
