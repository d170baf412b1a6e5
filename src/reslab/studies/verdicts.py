"""Claims judged from the seeds: holds, fails, or undecided, with the interval and how many seeds would decide."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from reslab.metrics.intervals import t_quantile
from reslab.spec.study import Claim, number_of, terms

CONFIDENCE = 0.95
MOST_SEEDS = 1000

# The values of each row that was run, by seed.
Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Verdict:
    """`verdict` is holds, fails or undecided; `difference` = left - right with its `interval`; `num_agreeing` of
    `num_pairs` seeds are as the claim says; `num_seeds_needed` would decide if what was seen goes on."""

    verdict: str
    words: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    num_agreeing: int = 0
    num_pairs: int = 0
    num_seeds_needed: int | None = None


def judge(claim: Claim, values: Values, unit: str = "") -> Verdict:
    """The verdict on a claim from the values of its metric; `unit` is that of their differences.

    The interval is Welch's (1947) for a sum of means: d = sum c_i mean_i, of variance sum c_i^2 s_i^2 / n_i and
    degrees of freedom (sum v_i)^2 / sum (v_i^2 / (n_i - 1)) with v_i = c_i^2 s_i^2 / n_i. The claim holds where the
    whole interval is on its side, and fails where none of it is.
    """
    weights = _weights(claim)
    if lacking := _lacking(weights, values):
        return Verdict("undecided", lacking)
    difference = sum(weight * fmean(values[name].values()) for name, weight in weights.items()) + _constant(claim)
    pairs = _pairs(claim, weights, values)
    agreeing = sum(_agrees(claim, pair) for pair in pairs)
    if claim.deterministic:
        verdict = "holds" if _agrees(claim, difference) else "fails"
        words = f"difference {_shown(difference, unit)}; no seed changes it"
        return Verdict(verdict, words, difference, None, agreeing, len(pairs))
    counts = [len(values[name]) for name in weights]
    if not counts or min(counts) < 2:
        words = (
            f"{_of(agreeing, pairs)}; difference {_shown(difference, unit)}, at least 2 seeds of each row are needed"
        )
        return Verdict("undecided", words, difference, None, agreeing, len(pairs), 2)
    interval = _interval(difference, weights, values)
    verdict = _verdict(claim, interval)
    needed = None if verdict != "undecided" else seeds_needed(claim, difference, weights, values)
    words = f"{_of(agreeing, pairs)}; difference {_shown(difference, unit)}, 95 % interval {_told(interval)}"
    if verdict == "undecided":
        words += "; all seeds gave the same" if interval[0] == interval[1] else f"; {_needed(needed)}"
    return Verdict(verdict, words, difference, interval, agreeing, len(pairs), needed)


def _lacking(names: Iterable[str], values: Values) -> str:
    """Which rows are not in `values`, or have no value there, in words; empty where all have one."""
    away = [name for name in names if name not in values]
    empty = [name for name in names if name in values and not values[name]]
    told = [f"{', '.join(away)} {'was' if len(away) == 1 else 'were'} not run"] * bool(away)
    return "; ".join(told + [f"no number came of {', '.join(empty)}"] * bool(empty))


def _weights(claim: Claim) -> dict[str, float]:
    """The factor of each row in left - right."""
    found: dict[str, float] = {}
    for sign, side in ((1.0, claim.left), (-1.0, claim.right)):
        for factor, name in terms(side):
            found[name] = found.get(name, 0.0) + sign * factor
    return found


def _constant(claim: Claim) -> float:
    return (number_of(claim.left) or 0.0) - (number_of(claim.right) or 0.0)


def _pairs(claim: Claim, weights: Mapping[str, float], values: Values) -> list[float]:
    """left - right seed by seed, for the seeds that all rows have."""
    seeds = set.intersection(*(set(values[name]) for name in weights)) if weights else set()
    return [sum(w * values[name][seed] for name, w in weights.items()) + _constant(claim) for seed in sorted(seeds)]


def _agrees(claim: Claim, difference: float) -> bool:
    if claim.relation == "within":
        return abs(difference) <= claim.margin
    return difference < -claim.margin if claim.relation == "<" else difference > claim.margin


def _interval(difference: float, weights: Mapping[str, float], values: Values) -> tuple[float, float]:
    parts = [
        (w * w * variance(values[name].values()) / len(values[name]), len(values[name]) - 1)
        for name, w in _used(weights)
    ]
    half = half_width(parts)
    return difference - half, difference + half


def _used(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, weight) for name, weight in weights.items() if weight]


def half_width(parts: Sequence[tuple[float, int]]) -> float:
    """Half of Welch's interval from (variance of a mean times its factor squared, degrees of freedom) of each row."""
    total = math.fsum(part for part, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / math.fsum(part**2 / degrees for part, degrees in parts)
    return t_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(total)


def _verdict(claim: Claim, interval: tuple[float, float]) -> str:
    low, high = interval
    margin = claim.margin
    if claim.relation == "within":
        holds, fails = -margin <= low and high <= margin, low > margin or high < -margin
    elif claim.relation == "<":
        holds, fails = high < -margin, low > -margin
    else:
        holds, fails = low > margin, high < margin
    return "holds" if holds else "fails" if fails else "undecided"


def seeds_needed(claim: Claim, difference: float, weights: Mapping[str, float], values: Values) -> int | None:
    """How many seeds a row would decide, if means and spreads stay as they are; None where not even a thousand."""
    spreads = [weight**2 * variance(values[name].values()) for name, weight in _used(weights)]
    for number in range(2, MOST_SEEDS + 1):
        half = half_width([(spread / number, number - 1) for spread in spreads])
        if _verdict(claim, (difference - half, difference + half)) != "undecided":
            return number
    return None


def _needed(number: int | None) -> str:
    if number is None:
        return f"more than {MOST_SEEDS} seeds of each row would be needed to decide"
    return f"about {number} seeds of each row would decide"


def _of(agreeing: int, pairs: Sequence[float]) -> str:
    return f"{agreeing} of {len(pairs)} seed{'s' * (len(pairs) != 1)}"


def _told(interval: tuple[float, float]) -> str:
    return f"{_shown(interval[0])} to {_shown(interval[1])}"


def _shown(value: float, unit: str = "") -> str:
    return f"{value:.3g} {unit}".rstrip() if abs(value) < 1000 else f"{value:,.0f} {unit}".rstrip()
