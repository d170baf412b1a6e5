"""Test the claims of a study with its seeds: a claim holds, fails or is undecided, by Welch's interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, variance

from reslab.metrics.intervals import t_quantile
from reslab.spec.study import Claim, as_number, parse_terms

CONFIDENCE = 0.95
MAX_SEEDS = 1000

# The values of each row that was run, by seed.
ValuesByRow = Mapping[str, Mapping[int, float]]
Interval = tuple[float, float]


class Verdict(StrEnum):
    """The outcome of a claim: the whole interval is on its side, none of it is, or some of it is."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict on a claim, and an `explanation` for people.

    `difference` is left - right, with its `interval`; the difference of `num_agreeing` of `num_pairs` seeds agrees with
    the claim. `num_seeds_needed` seeds would decide it if means and spreads stay the same.
    """

    verdict: Verdict
    explanation: str
    difference: float | None = None
    interval: Interval | None = None
    num_agreeing: int = 0
    num_pairs: int = 0
    num_seeds_needed: int | None = None


def evaluate_claim(claim: Claim, values: ValuesByRow, unit: str = "") -> ClaimVerdict:
    """Return the verdict on a claim from the values of its metric; `unit` is that of their differences.

    The interval is Welch's (1947) for a sum of means: d = sum c_i mean_i, of variance sum c_i^2 s_i^2 / n_i and
    degrees of freedom (sum v_i)^2 / sum (v_i^2 / (n_i - 1)) with v_i = c_i^2 s_i^2 / n_i. The claim holds where the
    whole interval is on its side, and fails where none of it is.
    """
    weights = _row_weights(claim)
    if missing := _missing_values_text(weights, values):
        return ClaimVerdict(Verdict.UNDECIDED, missing)
    difference = sum(weight * fmean(values[name].values()) for name, weight in weights.items()) + _constant_term(claim)
    differences = _paired_differences(claim, weights, values)
    num_agreeing = sum(_agrees(claim, pair_difference) for pair_difference in differences)
    interval, num_seeds_needed = None, None
    agreement_text = f"{num_agreeing} of {len(differences)} seed{'s' * (len(differences) != 1)}"
    difference_text = f"difference {_format_value(difference, unit)}"
    counts = [len(values[name]) for name in weights]
    if claim.deterministic:
        verdict = Verdict.HOLDS if _agrees(claim, difference) else Verdict.FAILS
        explanation = f"{difference_text}; it does not depend on the seed"
    elif not counts or min(counts) < 2:
        verdict, num_seeds_needed = Verdict.UNDECIDED, 2
        explanation = f"{agreement_text}; {difference_text}, at least 2 seeds of each row are needed"
    else:
        interval = _welch_interval(difference, weights, values)
        verdict = _interval_verdict(claim, interval)
        explanation = f"{agreement_text}; {difference_text}, 95 % interval {_format_interval(interval)}"
        if verdict is Verdict.UNDECIDED:
            num_seeds_needed = seeds_needed(claim, difference, weights, values)
            explanation += f"; {_seeds_needed_text(interval, num_seeds_needed)}"
    return ClaimVerdict(
        verdict=verdict,
        explanation=explanation,
        difference=difference,
        interval=interval,
        num_agreeing=num_agreeing,
        num_pairs=len(differences),
        num_seeds_needed=num_seeds_needed,
    )


def _missing_values_text(names: Iterable[str], values: ValuesByRow) -> str:
    """Return a text that names the rows without a value; empty if all have one."""
    missing = [name for name in names if name not in values]
    empty = [name for name in names if name in values and not values[name]]
    messages = [f"{', '.join(missing)} {'was' if len(missing) == 1 else 'were'} not run"] * bool(missing)
    return "; ".join(messages + [f"no value for {', '.join(empty)}"] * bool(empty))


def _row_weights(claim: Claim) -> dict[str, float]:
    """Return the factor of each row in left - right."""
    weights: dict[str, float] = {}
    for sign, side in ((1.0, claim.left), (-1.0, claim.right)):
        for factor, name in parse_terms(side):
            weights[name] = weights.get(name, 0.0) + sign * factor
    return weights


def _constant_term(claim: Claim) -> float:
    return (as_number(claim.left) or 0.0) - (as_number(claim.right) or 0.0)


def _paired_differences(claim: Claim, weights: Mapping[str, float], values: ValuesByRow) -> list[float]:
    """Return left - right for each seed that all rows have."""
    seeds = set.intersection(*(set(values[name]) for name in weights)) if weights else set()
    return [
        sum(w * values[name][seed] for name, w in weights.items()) + _constant_term(claim) for seed in sorted(seeds)
    ]


def _agrees(claim: Claim, difference: float) -> bool:
    if claim.relation == "within":
        return abs(difference) <= claim.margin
    return difference < -claim.margin if claim.relation == "<" else difference > claim.margin


def _welch_interval(difference: float, weights: Mapping[str, float], values: ValuesByRow) -> Interval:
    variance_parts = [
        (w * w * variance(values[name].values()) / len(values[name]), len(values[name]) - 1)
        for name, w in _nonzero_weights(weights)
    ]
    half = welch_half_width(variance_parts)
    return difference - half, difference + half


def _nonzero_weights(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, weight) for name, weight in weights.items() if weight]


def welch_half_width(parts: Sequence[tuple[float, int]]) -> float:
    """Return half of Welch's interval; each part is (squared factor * variance of the mean, degrees of freedom)."""
    total = math.fsum(part for part, _ in parts)
    if total == 0:
        return 0.0
    df = total**2 / math.fsum(part**2 / part_df for part, part_df in parts)
    return t_quantile((1 + CONFIDENCE) / 2, df) * math.sqrt(total)


def _interval_verdict(claim: Claim, interval: Interval) -> Verdict:
    low, high = interval
    margin = claim.margin
    if claim.relation == "within":
        holds, fails = -margin <= low and high <= margin, low > margin or high < -margin
    elif claim.relation == "<":
        holds, fails = high < -margin, low > -margin
    else:
        holds, fails = low > margin, high < margin
    return Verdict.HOLDS if holds else Verdict.FAILS if fails else Verdict.UNDECIDED


def seeds_needed(claim: Claim, difference: float, weights: Mapping[str, float], values: ValuesByRow) -> int | None:
    """Return the number of seeds of a row that would decide, if means and spreads stay; None beyond a thousand."""
    spreads = [weight**2 * variance(values[name].values()) for name, weight in _nonzero_weights(weights)]
    for num_seeds in range(2, MAX_SEEDS + 1):
        half = welch_half_width([(spread / num_seeds, num_seeds - 1) for spread in spreads])
        if _interval_verdict(claim, (difference - half, difference + half)) is not Verdict.UNDECIDED:
            return num_seeds
    return None


def _seeds_needed_text(interval: Interval, num_seeds: int | None) -> str:
    if interval[0] == interval[1]:
        return "all seeds have the same value"
    if num_seeds is None:
        return f"more than {MAX_SEEDS} seeds of each row would be needed"
    return f"about {num_seeds} seeds of each row would decide"


def _format_interval(interval: Interval) -> str:
    return f"{_format_value(interval[0])} to {_format_value(interval[1])}"


def _format_value(value: float, unit: str = "") -> str:
    return f"{value:.3g} {unit}".rstrip() if abs(value) < 1000 else f"{value:,.0f} {unit}".rstrip()
