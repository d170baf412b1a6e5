"""Two networks on the same pictures: who is right where the other is wrong, and whether that is more than chance.

Student's t: its quantiles, without a dependency.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import comb, exp, lgamma, log

from torch import Tensor


@dataclass(frozen=True)
class PairedTest:
    """How often both, only one and none is right; `p_value` of the exact McNemar test; `difference` of accuracies
    (second less first) with the ends of its 95 % interval, given how many flipped; `agree` is the share called the
    same."""

    both_correct: int
    only_first: int
    only_second: int
    neither_correct: int
    agreement: float
    p_value: float
    difference: float
    ci_low: float
    ci_high: float


def run_paired_test(first: Tensor, second: Tensor, labels: Tensor) -> PairedTest:
    """The classes called by two networks, (N,) each, against the labels."""
    first_correct, second_correct = first == labels, second == labels
    only_first, only_second = int((first_correct & ~second_correct).sum()), int((~first_correct & second_correct).sum())
    num_samples = len(labels)
    difference = (only_second - only_first) / num_samples
    low, high = clopper_pearson_interval(only_second, only_first + only_second)
    flip_fraction = (only_first + only_second) / num_samples
    return PairedTest(
        both_correct=int((first_correct & second_correct).sum()),
        only_first=only_first,
        only_second=only_second,
        neither_correct=int((~first_correct & ~second_correct).sum()),
        agreement=float((first == second).float().mean()),
        p_value=mcnemar_p_value(only_first, only_second),
        difference=difference,
        ci_low=flip_fraction * (2 * low - 1),
        ci_high=flip_fraction * (2 * high - 1),
    )


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """min(1, 2 P(X <= min(b, c))) for X binomial of b + c throws of a fair coin: the exact two-sided p-value."""
    num_discordant, smaller = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(comb(num_discordant, k) for k in range(smaller + 1)) / 2**num_discordant)


def clopper_pearson_interval(num_successes: int, num_trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """The ends of Clopper and Pearson's (1934) interval of a proportion: hits of so many throws; 0 to 1 of none."""
    low, high = 0.0, 1.0
    if num_successes > 0:
        low = _bisect(lambda p: 1 - _binomial_cdf(num_successes - 1, num_trials, p), alpha / 2)
    if num_successes < num_trials:
        high = _bisect(lambda p: 1 - _binomial_cdf(num_successes, num_trials, p), 1 - alpha / 2)
    return low, high


def _bisect(increasing: Callable[[float], float], value: float) -> float:
    """Where a function that rises from 0 to 1 takes a value."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < value else (low, middle)
    return (low + high) / 2


def _binomial_cdf(num_successes: int, num_trials: int, p: float) -> float:
    """P(X <= hits) of a binomial X."""
    log_terms = (
        lgamma(num_trials + 1) - lgamma(k + 1) - lgamma(num_trials - k + 1) + k * log(p) + (num_trials - k) * log(1 - p)
        for k in range(num_successes + 1)
    )
    return sum(map(exp, log_terms))


_TINY = 1e-300
_TOLERANCE = 1e-15


def t_quantile(p: float, df: float) -> float:
    """The value that Student's t of `freedom` degrees stays below with probability p.

    P(T < t) = 1 - I_x(freedom / 2, 1 / 2) / 2 with x = freedom / (freedom + t^2) for t > 0 (Abramowitz and Stegun 1964,
    26.7.1), inverted by halving.
    """
    assert 0 < p < 1, p
    assert df > 0, df
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, df: float) -> float:
    """The probability that Student's t of `freedom` degrees is below t."""
    tail = regularized_beta(df / (df + t * t), df / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def regularized_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by the continued fraction of Abramowitz and Stegun 1964, 26.5.8 (evaluated as by Lentz 1976)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - regularized_beta(1 - x, b, a)
    prefactor = (
        math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    )
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d, c = 1 / _nonzero(1 + step * d), _nonzero(1 + step / c)
            fraction *= d * c
        if abs(d * c - 1) < _TOLERANCE:
            break
    return prefactor * fraction


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
