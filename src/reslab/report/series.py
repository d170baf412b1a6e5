"""Series of metrics over the epochs of training, read from the records of log.jsonl."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reslab.report.colors import EVALUATION

MAX_POINTS = 300
LogRecords = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """A metric `y` at the epochs `x`, equally long and finite; false where it is empty.

    `num_non_finite` counts the values that were NaN or infinite, the first of them at epoch `first_non_finite`.
    """

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    num_non_finite: int = 0
    first_non_finite: float = math.nan

    def __bool__(self) -> bool:
        return bool(self.x)


@dataclass(frozen=True)
class Curve:
    """A series with its legend and its look; a long noisy one is drawn pale, under its running mean."""

    series: Series
    label: str
    color: str = EVALUATION
    dashed: bool = False
    is_noisy: bool = False


def eval_splits(log: LogRecords) -> list[str]:
    """Return the splits that were evaluated during training, in order of first appearance."""
    return list(dict.fromkeys(_split_of(record) for record in log if record.get("kind") == "eval"))


def train_series(log: LogRecords, key: str, *, averaged: bool = True) -> Series:
    """Return a metric of the training records.

    An `averaged` metric (loss, top1) is a mean over the steps since the previous record, and those are not equally
    many: the log has a record every so many steps and one at the end of each epoch. It is averaged again over equal
    windows of steps, as a mean over 4 batches beside one over 100 draws jags that are not there. Other metrics (the
    learning rate) are values at a step and stay as they are.
    """
    records = [record for record in log if record.get("kind") == "train" and key in record]
    if averaged and all("step" in record for record in records):
        return _average_over_equal_windows(records, key)
    return extract_series(records, key)


def eval_series(log: LogRecords, split: str, key: str) -> Series:
    """Return a metric of the evaluations on `split`."""
    return extract_series(
        (record for record in log if record.get("kind") == "eval" and _split_of(record) == split), key
    )


def first_eval_series(log: LogRecords, key: str) -> Series:
    """Return a metric on the first split that was evaluated during training; empty where there is none."""
    splits = eval_splits(log)
    return eval_series(log, splits[0], key) if splits else Series()


def extract_series(records: Iterable[Mapping[str, Any]], key: str) -> Series:
    """Return a metric against epochs, without missing and non-finite values, thinned to 300 points by means.

    None is a value that was not finite; where all are None, the task does not have the metric, and the series is empty.
    """
    with_key = [record for record in records if key in record]
    if all(record[key] is None for record in with_key):
        return Series()
    return _make_series([(_epoch_of(record), _float_or_nan(record[key])) for record in with_key])


def equal_windows(steps: Sequence[float], means: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Turn means over (steps[i-1], steps[i]] into means over windows of equal width; return their ends and means.

    The windows are about as wide as the widest given interval and fill the range from 0 to the last step. A window
    takes its part of an interval that it cuts. Intervals whose mean is not finite are left out, and so are windows
    without any finite one. Returns its arguments where the intervals are equally wide already.
    """
    intervals = np.diff([0.0, *steps])
    if len(steps) < 2 or np.all(intervals == intervals[0]) or np.any(intervals <= 0):
        return steps, means
    is_finite = np.isfinite(means)
    num_windows = max(1, round(steps[-1] / intervals.max()))
    edges = np.linspace(0.0, steps[-1], num_windows + 1)
    weights = np.where(is_finite, intervals, 0.0)
    weighted = weights * np.where(is_finite, means, 0.0)
    # The integrals up to each edge: interpolating a cumulative sum splits an interval in proportion.
    total, weight = (
        np.diff(np.interp(edges, [0.0, *steps], np.cumsum([0.0, *values]))) for values in (weighted, weights)
    )
    has_values = weight > 0
    return edges[1:][has_values].tolist(), (total[has_values] / weight[has_values]).tolist()


def tail_mean(series: Series) -> float:
    """Return the mean over the last tenth of a noisy series; NaN where it is empty."""
    tail = series.y[-max(1, len(series.y) // 10) :]
    return sum(tail) / len(tail) if tail else math.nan


def running_mean(series: Series) -> Series:
    """Return the centered mean over a thirtieth of the series; the window shrinks towards both ends."""
    max_radius = max(1, len(series.y) // 60)
    means = []
    for index in range(len(series.y)):
        radius = min(max_radius, index, len(series.y) - 1 - index)
        window = series.y[index - radius : index + radius + 1]
        means.append(sum(window) / len(window))
    return replace(series, y=tuple(means))


def _average_over_equal_windows(records: Sequence[Mapping[str, Any]], key: str) -> Series:
    by_step = {_float_or_nan(record["step"]): record for record in records}
    steps = sorted(step for step in by_step if math.isfinite(step))
    values = [_float_or_nan(by_step[step][key]) for step in steps]
    ends, means = equal_windows(steps, values)
    if ends is steps:
        return extract_series(records, key)
    epochs = np.interp(ends, steps, [_epoch_of(by_step[step]) for step in steps])
    non_finite = [
        _epoch_of(by_step[step]) for step, value in zip(steps, values, strict=True) if not math.isfinite(value)
    ]
    series = _make_series(list(zip(epochs.tolist(), means, strict=True)))
    return replace(series, num_non_finite=len(non_finite), first_non_finite=non_finite[0] if non_finite else math.nan)


def _make_series(pairs: Sequence[tuple[float, float]]) -> Series:
    non_finite = [x for x, y in pairs if not math.isfinite(y)]
    points = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    points = _thin_pairs(sorted(points, key=lambda pair: pair[0]))
    return Series(
        x=tuple(x for x, _ in points),
        y=tuple(y for _, y in points),
        num_non_finite=len(non_finite),
        first_non_finite=non_finite[0] if non_finite else math.nan,
    )


def _split_of(record: Mapping[str, Any]) -> str:
    return str(record.get("split", "val"))


def _epoch_of(record: Mapping[str, Any]) -> float:
    return _float_or_nan(record.get("epoch", record.get("step")))


def _float_or_nan(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _thin_pairs(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    bin_size = math.ceil(len(pairs) / MAX_POINTS)
    if bin_size <= 1:
        return pairs
    bins = [pairs[start : start + bin_size] for start in range(0, len(pairs), bin_size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in bins]
