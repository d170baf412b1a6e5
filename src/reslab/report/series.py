"""The log of a run as lines to draw: what was measured, against the epochs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_POINTS = 300
LogRecords = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """A named line: x and y of equal length, all finite; `num_lost` counts the values that were no numbers."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    num_non_finite: int = 0
    first_non_finite: float = math.nan

    def __bool__(self) -> bool:
        return bool(self.x)


def eval_splits(log: LogRecords) -> list[str]:
    """The splits that were evaluated during training, in the order in which they first appear."""
    return list(dict.fromkeys(str(record.get("split", "held-out")) for record in log if record.get("kind") == "eval"))


def train_series(log: LogRecords, key: str) -> Series:
    """The values `value` (loss, top1, lr) of the training lines."""
    return extract_series("train", (record for record in log if record.get("kind") == "train"), key)


def eval_series(log: LogRecords, split: str, key: str) -> Series:
    """The values `value` (loss, top1) of the evaluations of `split`."""
    records = (
        record for record in log if record.get("kind") == "eval" and str(record.get("split", "held-out")) == split
    )
    return extract_series(split, records, key)


def extract_series(name: str, records: Iterable[Mapping[str, Any]], key: str) -> Series:
    """The line of `value` against epochs, without what is missing or no number, thinned to MOST_POINTS by means."""
    pairs = [
        (_float_or_nan(record.get("epoch", record.get("step"))), _float_or_nan(record[key]))
        for record in records
        if key in record
    ]
    non_finite = [x for x, y in pairs if not math.isfinite(y)]
    points = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    points = _thin_pairs(sorted(points, key=lambda pair: pair[0]))
    return Series(
        name,
        tuple(x for x, _ in points),
        tuple(y for _, y in points),
        len(non_finite),
        non_finite[0] if non_finite else math.nan,
    )


def tail_mean(series: Series) -> float:
    """Where a noisy line ends: the mean over its last tenth; NaN where it is empty."""
    tail = series.y[-max(1, len(series.y) // 10) :]
    return sum(tail) / len(tail) if tail else math.nan


def running_mean(series: Series) -> Series:
    """Each value's mean with its neighbours, a thirtieth of the line in all; fewer neighbours towards both ends."""
    max_radius = max(1, len(series.y) // 60)
    means = []
    for index in range(len(series.y)):
        radius = min(max_radius, index, len(series.y) - 1 - index)
        window = series.y[index - radius : index + radius + 1]
        means.append(sum(window) / len(window))
    return replace(series, y=tuple(means))


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
