"""Two networks on the same pictures: who is right where the other is wrong, and whether that is more than chance."""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, exp, lgamma, log

from torch import Tensor


@dataclass(frozen=True)
class Paired:
    """How often both, only one and none is right; `p_value` of the exact McNemar test; `difference` of accuracies
    (second less first) with the ends of its 95 % interval, given how many flipped; `agree` is the share called the
    same."""

    both: int
    only_first: int
    only_second: int
    neither: int
    agree: float
    p_value: float
    difference: float
    low: float
    high: float


def paired(first: Tensor, second: Tensor, labels: Tensor) -> Paired:
    """The classes called by two networks, (N,) each, against the labels."""
    one, two = first == labels, second == labels
    only_first, only_second = int((one & ~two).sum()), int((~one & two).sum())
    number = len(labels)
    difference = (only_second - only_first) / number
    low, high = proportion(only_second, only_first + only_second)
    flips = (only_first + only_second) / number
    return Paired(
        both=int((one & two).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~one & ~two).sum()),
        agree=float((first == second).float().mean()),
        p_value=mcnemar(only_first, only_second),
        difference=difference,
        low=flips * (2 * low - 1),
        high=flips * (2 * high - 1),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """min(1, 2 P(X <= min(b, c))) for X binomial of b + c throws of a fair coin: the exact two-sided p-value."""
    number, least = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(comb(number, k) for k in range(least + 1)) / 2**number)


def proportion(hits: int, number: int, outside: float = 0.05) -> tuple[float, float]:
    """The ends of Clopper and Pearson's (1934) interval of a proportion: hits of so many throws; 0 to 1 of none."""
    low, high = 0.0, 1.0
    if hits > 0:
        low = _solved(lambda p: 1 - _at_most(hits - 1, number, p), outside / 2)
    if hits < number:
        high = _solved(lambda p: 1 - _at_most(hits, number, p), 1 - outside / 2)
    return low, high


def _solved(rising: Callable[[float], float], value: float) -> float:
    """Where a function that rises from 0 to 1 takes a value."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def _at_most(hits: int, number: int, p: float) -> float:
    """P(X <= hits) of a binomial X."""
    logs = (
        lgamma(number + 1) - lgamma(k + 1) - lgamma(number - k + 1) + k * log(p) + (number - k) * log(1 - p)
        for k in range(hits + 1)
    )
    return sum(map(exp, logs))
