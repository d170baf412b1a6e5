"""The log of a run as lines to draw: what was measured, against the epochs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MOST_POINTS = 300
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Series:
    """A named line: x and y of equal length, all finite; `num_lost` counts the values that were no numbers."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    num_lost: int = 0
    first_lost: float = math.nan

    def __bool__(self) -> bool:
        return bool(self.x)


def splits(log: Log) -> list[str]:
    """The splits that were evaluated during training, in the order in which they first appear."""
    return list(dict.fromkeys(str(line.get("split", "held-out")) for line in log if line.get("kind") == "eval"))


def train_series(log: Log, value: str) -> Series:
    """The values `value` (loss, top1, lr) of the training lines."""
    return series("train", (line for line in log if line.get("kind") == "train"), value)


def eval_series(log: Log, split: str, value: str) -> Series:
    """The values `value` (loss, top1) of the evaluations of `split`."""
    lines = (line for line in log if line.get("kind") == "eval" and str(line.get("split", "held-out")) == split)
    return series(split, lines, value)


def series(name: str, lines: Iterable[Mapping[str, Any]], value: str) -> Series:
    """The line of `value` against epochs, without what is missing or no number, thinned to MOST_POINTS by means."""
    pairs = [(_number(line.get("epoch", line.get("step"))), _number(line[value])) for line in lines if value in line]
    lost = [x for x, y in pairs if not math.isfinite(y)]
    kept = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    kept = _thinned(sorted(kept, key=lambda pair: pair[0]))
    return Series(name, tuple(x for x, _ in kept), tuple(y for _, y in kept), len(lost), lost[0] if lost else math.nan)


def last_value(line: Series) -> float:
    """Where a noisy line ends: the mean over its last tenth; NaN where it is empty."""
    tail = line.y[-max(1, len(line.y) // 10) :]
    return sum(tail) / len(tail) if tail else math.nan


def running_mean(line: Series) -> Series:
    """Each value's mean with its neighbours, a thirtieth of the line in all; fewer neighbours towards both ends."""
    reach = max(1, len(line.y) // 60)
    means = []
    for place in range(len(line.y)):
        side = min(reach, place, len(line.y) - 1 - place)
        near = line.y[place - side : place + side + 1]
        means.append(sum(near) / len(near))
    return replace(line, y=tuple(means))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _thinned(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    width = math.ceil(len(pairs) / MOST_POINTS)
    if width <= 1:
        return pairs
    bins = [pairs[start : start + width] for start in range(0, len(pairs), width)]
    return [(sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in bins]
