"""The logs of a row's seeds as one line: the mean against iterations, and the band between the lowest and highest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reslab.report.study_page import StudyRow

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
