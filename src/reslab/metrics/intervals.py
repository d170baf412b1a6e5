"""Two networks on the same pictures: who is right where the other is wrong, and whether that is more than chance.

Student's t: its quantiles, without a dependency.
"""

import math
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


_TINY = 1e-300
_CLOSE = 1e-15


def t_quantile(p: float, freedom: float) -> float:
    """The value that Student's t of `freedom` degrees stays below with probability p.

    P(T < t) = 1 - I_x(freedom / 2, 1 / 2) / 2 with x = freedom / (freedom + t^2) for t > 0 (Abramowitz and Stegun 1964,
    26.7.1), inverted by halving.
    """
    assert 0 < p < 1, p
    assert freedom > 0, freedom
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_below(high, freedom) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_below(t: float, freedom: float) -> float:
    """The probability that Student's t of `freedom` degrees is below t."""
    tail = regularised_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def regularised_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by the continued fraction of Abramowitz and Stegun 1964, 26.5.8 (evaluated as by Lentz 1976)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - regularised_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d, c = 1 / _away(1 + step * d), _away(1 + step / c)
            found *= d * c
        if abs(d * c - 1) < _CLOSE:
            break
    return front * found


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
