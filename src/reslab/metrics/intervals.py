"""Confidence intervals and significance tests: Student's t, Clopper-Pearson, and paired tests (McNemar's, Student's).

SciPy is imported inside the functions: its statistics take half a second to load, which no command should pay at start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same images: how often both, only one, and none of them is correct, and the tests.

    `p_value` is that of the exact McNemar test. `difference` is the accuracy of the second minus that of the first,
    with the ends of its 95 % interval given the number of flipped images. `agreement` is the fraction of equal
    predictions.
    """

    both_correct: int
    only_first: int
    only_second: int
    neither_correct: int
    agreement: float
    p_value: float
    difference: float
    ci_low: float
    ci_high: float


def run_paired_test(first: "Tensor", second: "Tensor", labels: "Tensor") -> PairedTest:
    """Compare the predicted classes of two classifiers, (N,) each, with the labels."""
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
    """Return the exact two-sided p-value: that of `only_first` heads in as many fair coin tosses as there are flips."""
    from scipy.stats import binomtest

    num_discordant = only_first + only_second
    return float(binomtest(only_first, num_discordant).pvalue) if num_discordant else 1.0


def paired_t_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Student's paired t-test on values of the same seeds, in the same order.

    None below two pairs, and where all differences are equal: then their spread is unknown, not zero, because an
    accuracy on few images has few values.
    """
    from scipy.stats import ttest_rel

    differences = {round(a - b, 12) for a, b in zip(first, second, strict=True)}
    return None if len(first) < 2 or len(differences) == 1 else float(ttest_rel(first, second).pvalue)


def clopper_pearson_interval(num_successes: int, num_trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson 1934); 0 to 1 without trials."""
    from scipy.stats import binomtest

    if not num_trials:
        return 0.0, 1.0
    interval = binomtest(num_successes, num_trials).proportion_ci(1 - alpha, method="exact")
    return float(interval.low), float(interval.high)


def t_quantile(p: float, df: float) -> float:
    """Return the value that Student's t with `df` degrees of freedom stays below with probability p."""
    from scipy.stats import t

    return float(t.ppf(p, df))
