"""Curves of a study in the papers' layouts: error against iterations (He et al. 2015, Figs. 1 and 6; He et al. 2016,
Figs. 3 and 6).

The logs of a row's seeds as one line: the mean against iterations, and the band between the lowest and highest.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reslab.report.pages.study_text import StudyPage, StudyRow
from reslab.report.plots.study_style import (
    DASHES,
    colour,
    iterations,
    legend,
    nothing_yet,
    panels,
    percents,
    stamp,
    title,
)
from reslab.report.plots.style import MUTED, styled
from reslab.spec.study import Drawing

_FEWEST_SMOOTHED = 40


@dataclass(frozen=True)
class StepLine:
    """Iterations, the mean over the seeds, the lowest and the highest of them; empty where nothing was logged."""

    x: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.x)

    def at_share(self, share: float) -> float:
        """The mean at a share of the line, 1 for its end."""
        return self.mean[min(len(self.mean) - 1, int(share * len(self.mean)))]


def error_line(row: StudyRow, kind: str) -> StepLine:
    """Error in percent of `train` (as the batches came, smoothed) or `eval` (the split that is judged)."""
    return _line(row, kind, "top1", lambda top1: 100 * (1 - top1))


def loss_line(row: StudyRow, kind: str) -> StepLine:
    """Loss of `train` or `eval`."""
    return _line(row, kind, "loss", lambda loss: loss)


def _line(row: StudyRow, kind: str, value: str, scaled: Any) -> StepLine:
    seeds = [points for points in (_points(run.log, kind, value) for run in row.runs) if len(points[0])]
    if not seeds:
        return StepLine()
    last = min(x[-1] for x, _ in seeds)
    grid = seeds[0][0][seeds[0][0] <= last]
    each = np.stack([np.interp(grid, x, _smoothed(scaled(y)) if kind == "train" else scaled(y)) for x, y in seeds])
    return StepLine(*(tuple(map(float, line)) for line in (grid, each.mean(0), each.min(0), each.max(0))))


def _points(log: Sequence[Mapping[str, Any]], kind: str, value: str) -> tuple[np.ndarray, np.ndarray]:
    lines = [line for line in log if line.get("kind") == kind and "step" in line and line.get(value) is not None]
    if kind == "eval" and lines:
        lines = [line for line in lines if line.get("split") == _judged(lines)]
    found = [(float(line["step"]), float(line[value])) for line in lines if math.isfinite(float(line[value]))]
    steps, values = zip(*sorted(dict(found).items()), strict=True) if found else ((), ())
    return np.array(steps), np.array(values)


def _judged(lines: Sequence[Mapping[str, Any]]) -> Any:
    splits = [line.get("split") for line in lines]
    return "test" if "test" in splits else splits[0]


def _smoothed(y: np.ndarray) -> np.ndarray:
    if len(y) < _FEWEST_SMOOTHED:
        return y
    reach = max(1, len(y) // 80)
    sides = [min(reach, place, len(y) - 1 - place) for place in range(len(y))]
    return np.array([y[place - side : place + side + 1].mean() for place, side in enumerate(sides)])


_EARLY = 0.15
Lines = Callable[[StudyRow, str], StepLine]


def error_curves(page: StudyPage, drawing: Drawing, words: str) -> Figure:
    """Training error dashed and test error bold, a panel for each group of rows, one scale for all."""
    with styled():
        figure, every = panels(len(drawing.panels), *_size(len(drawing.panels)))
        shown = [_rows(page, panel.rows) for panel in drawing.panels]
        top = _top([error_line(row, kind) for rows in shown for row in rows for kind in ("train", "eval")])
        for axes, panel, rows in zip(every, drawing.panels, shown, strict=True):
            title(axes, panel.title)
            _draw(axes, rows, {"train": error_line, "eval": error_line})
            _finish(axes, top)
        stamp(figure, words)
        return figure


def train_then_test(page: StudyPage, drawing: Drawing, words: str) -> Figure:
    """Training error on the left, test error on the right, all rows in both (He et al. 2015, Fig. 1)."""
    with styled():
        figure, every = panels(2, *_size(2))
        rows = _rows(page, drawing.rows)
        top = _top([error_line(row, kind) for row in rows for kind in ("train", "eval")])
        for axes, kind, name in zip(every, ("train", "eval"), ("training error", "test error"), strict=True):
            title(axes, name)
            _draw(axes, rows, {kind: error_line}, bold=True)
            _finish(axes, top)
        stamp(figure, words)
        return figure


def loss_and_error(page: StudyPage, drawing: Drawing, words: str) -> Figure:
    """Training loss dashed (left axis, logarithmic), test error bold (right axis), as He et al. 2016, Fig. 6."""
    with styled():
        count = len(drawing.panels)
        wide, high = _size(count)
        figure, every = panels(count, wide, high * -(-count // 2), columns=min(2, count))
        for axes, panel in zip(every, drawing.panels, strict=True):
            title(axes, panel.title)
            rows = _rows(page, panel.rows)
            right = axes.twinx()
            _draw(axes, rows, {"train": loss_line}, legends=False)
            _draw(right, rows, {"eval": error_line})
            if not any(loss_line(row, "train") for row in rows):
                right.set_axis_off()
                nothing_yet(axes)
                continue
            iterations(axes)
            _log_loss(axes)
            percents(right)
            right.grid(False)
            right.set_ylim(0, _top([error_line(row, "eval") for row in rows]))
            right.set_ylabel("test error (bold)")
        stamp(figure, words)
        return figure


def _size(count: int) -> tuple[float, float]:
    return (9.2, 4.0) if count > 1 else (5.8, 4.0)


def _rows(page: StudyPage, names: Sequence[str]) -> list[StudyRow]:
    return [row for row in map(page.row, names) if row is not None]


def _draw(
    axes: Axes, rows: Sequence[StudyRow], kinds: Mapping[str, Lines], *, bold: bool = False, legends: bool = True
) -> None:
    handles: list[Any] = []
    labels: list[str] = []
    for place, row in enumerate(rows):
        for kind, made in kinds.items():
            line = made(row, kind)
            if not line:
                continue
            strong = bold or kind == "eval"
            drawn = axes.plot(
                line.x, line.mean, color=colour(place), linewidth=2.1 if strong else 1.1,
                linestyle="-" if strong else DASHES, alpha=1.0 if strong else 0.85, zorder=3 if strong else 2,
            )  # fmt: skip
            if strong and len(row.runs) > 1:
                axes.fill_between(line.x, line.low, line.high, color=colour(place), alpha=0.14, linewidth=0)
            if strong or "eval" not in kinds:
                handles.append(drawn[0])
                labels.append(row.row.name)
    if legends:
        legend(axes, handles, labels)


def _finish(axes: Axes, top: float) -> None:
    if not axes.has_data():
        nothing_yet(axes)
        return
    iterations(axes)
    percents(axes)
    axes.set_ylim(0, top)


def _top(lines: Sequence[StepLine]) -> float:
    """Where the errors' axis ends: what stands above after the first part of the runs is let go, as in the papers."""
    seen = [line.at_share(_EARLY) for line in lines if line]
    return min(100.0, 1.1 * max(seen)) if seen else 100.0


def _log_loss(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylabel("training loss (dashed)", color=MUTED)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
