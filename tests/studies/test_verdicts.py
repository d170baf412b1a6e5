"""Verdicts on claims against SciPy's Welch test, and by hand."""

import random

import pytest
from scipy import stats

from reslab.spec.study import Claim
from reslab.studies.verdicts import evaluate_claim


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


WORSE = Claim("a is worse than b", "a", ">", "b")


def test_the_interval_is_welchs_as_scipy_has_it() -> None:
    draw = random.Random(3)
    for n_a, n_b in ((2, 2), (5, 5), (3, 8)):
        a = [draw.gauss(10, 1) for _ in range(n_a)]
        b = [draw.gauss(9, 3) for _ in range(n_b)]
        result = evaluate_claim(WORSE, {"a": by_seed(*a), "b": by_seed(*b)})
        expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert result.interval == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_holds_fails_and_undecided() -> None:
    low, high = by_seed(9.0, 9.2, 9.1, 8.9, 9.3), by_seed(13.0, 13.4, 12.8, 13.5, 13.1)
    holds = evaluate_claim(WORSE, {"a": high, "b": low})
    assert (holds.verdict, holds.num_agreeing, holds.num_pairs) == ("holds", 5, 5)
    assert holds.explanation.startswith("5 of 5 seeds; difference 4.06, 95 % interval 3.")
    assert evaluate_claim(WORSE, {"a": high, "b": low}, "points").explanation.startswith(
        "5 of 5 seeds; difference 4.06 points, 95 % "
    )
    assert evaluate_claim(WORSE, {"a": low, "b": high}).verdict == "fails"
    near = evaluate_claim(WORSE, {"a": by_seed(9.0, 9.4, 9.2), "b": by_seed(9.1, 8.9, 9.2)})
    assert near.verdict == "undecided"
    assert (near.num_agreeing, near.num_pairs) == (1, 3)
    assert f"about {near.num_seeds_needed} seeds of each row would decide" in near.explanation


def test_the_number_of_seeds_that_would_decide_does() -> None:
    result = evaluate_claim(WORSE, {"a": by_seed(9.0, 10.0), "b": by_seed(8.6, 9.6)})
    number = result.num_seeds_needed
    assert result.verdict == "undecided"
    assert number is not None
    # By hand: both variances are 0.5, so the claim is decided once 0.4 > t(2 n - 2) sqrt(1 / n).
    t = stats.t.ppf(0.975, 2 * number - 2)
    before = stats.t.ppf(0.975, 2 * (number - 1) - 2)
    assert t * (1 / number) ** 0.5 < 0.4 < before * (1 / (number - 1)) ** 0.5


def test_one_seed_decides_only_deterministic_claims() -> None:
    values = {"a": by_seed(20.0), "b": by_seed(1.0)}
    result = evaluate_claim(WORSE, values)
    assert (result.verdict, result.num_agreeing, result.interval) == ("undecided", 1, None)
    assert "at least 2 seeds" in result.explanation
    certain = Claim("a is more than b", "a", ">", "b", metric="params", deterministic=True)
    assert evaluate_claim(certain, values).verdict == "holds"
    thrice = evaluate_claim(certain, {"a": by_seed(20.0, 20.0, 20.0), "b": {7: 1.0}})
    assert (thrice.verdict, thrice.num_agreeing, thrice.num_pairs) == ("holds", 0, 0)
    assert evaluate_claim(certain, {"a": by_seed(1.0), "b": by_seed(20.0)}).verdict == "fails"


def test_a_row_that_was_not_run_leaves_a_claim_undecided() -> None:
    assert evaluate_claim(WORSE, {"a": by_seed(1.0, 2.0)}).explanation == "b was not run"
    assert evaluate_claim(WORSE, {}).explanation == "a, b were not run"


def test_a_number_a_margin_and_within() -> None:
    a = {"a": by_seed(24.0, 25.0, 24.5)}
    assert evaluate_claim(Claim("it fails", "a", ">", 20), a).verdict == "holds"
    assert evaluate_claim(Claim("it fails by 5", "a", ">", 20, margin=5), a).verdict == "undecided"
    assert evaluate_claim(Claim("near", "a", "within", 24.5, margin=2), a).verdict == "holds"
    assert evaluate_claim(Claim("near", "a", "within", 20, margin=2), a).verdict == "fails"
    assert evaluate_claim(Claim("near", "a", "within", 24, margin=1), a).verdict == "undecided"
    low, high = stats.t.interval(0.95, 2, loc=4.5, scale=0.5 / 3**0.5)
    assert evaluate_claim(Claim("it fails", "a", ">", 20), a).interval == pytest.approx((low, high))


def test_a_difference_of_differences() -> None:
    claim = Claim("depth hurts plain networks more", "p56 - p20", ">", "r56 - r20")
    values = {
        "p56": by_seed(13.0, 13.5, 13.2),
        "p20": by_seed(9.0, 9.1, 9.3),
        "r56": by_seed(7.0, 7.2, 6.9),
        "r20": by_seed(8.7, 8.6, 8.9),
    }
    result = evaluate_claim(claim, values)
    assert result.difference == pytest.approx((13.2333333 - 9.1333333) - (7.0333333 - 8.7333333))
    assert (result.verdict, result.num_agreeing) == ("holds", 3)


def test_values_that_are_all_the_same() -> None:
    same = evaluate_claim(WORSE, {"a": by_seed(600, 600), "b": by_seed(600, 600)})
    assert same.verdict == "undecided"
    assert "all seeds have the same value" in same.explanation
    assert evaluate_claim(WORSE, {"a": by_seed(600, 600), "b": by_seed(200, 200)}).verdict == "holds"


def test_a_row_on_both_sides_counts_once() -> None:
    result = evaluate_claim(Claim("nonsense", "a", ">", "a"), {"a": by_seed(1.0, 3.0)})
    assert result.difference == 0
    assert result.verdict == "undecided"
