"""Student's t: its quantiles, without a dependency."""

import math

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
