"""Metrics of regression: mean absolute and squared error, R², bias and Pearson correlation of each target.

The sums are rounded once (`math.fsum`), so that the results do not depend on the order of the samples, to the last bit.
Over several processes, gather the outputs and targets of all samples: R² and the correlation need the means first.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from reslab.metrics.checks import check_same_shape, check_table
from reslab.metrics.classification import macro_average


@dataclass(frozen=True)
class RegressionMetrics:
    """Metrics of one target over N samples, with the error e = output - target.

    `mae` is the mean of |e|, `rmse` the root of `mse`, the mean of e², and `bias` the mean of e, all in the unit of the
    target (`mse` in its square). `r2` is 1 - sum(e²) / sum((target - mean target)²), and NaN where all targets are
    equal. `pearson` is the correlation of outputs and targets, and NaN where either are all equal.
    """

    mae: float
    mse: float
    rmse: float
    r2: float
    bias: float
    pearson: float


def regression_metrics(outputs: Tensor, targets: Tensor) -> list[RegressionMetrics]:
    """Return the metrics of each of the K targets from outputs and targets (N, K).

    Raises ValueError for shapes that differ, no samples, and numbers that are NaN or infinite.
    """
    check_same_shape("outputs", outputs, "targets", targets)
    columns = (check_table(name, values).T.tolist() for name, values in (("outputs", outputs), ("targets", targets)))
    return [_metrics(*pair) for pair in zip(*columns, strict=True)]


def mean_regression_metrics(metrics: Sequence[RegressionMetrics]) -> RegressionMetrics:
    """Return the unweighted mean of each metric over the targets where it is defined; `rmse` is the mean of roots."""
    names = [field.name for field in fields(RegressionMetrics)]
    return RegressionMetrics(**{name: macro_average([getattr(one, name) for one in metrics]) for name in names})


def _metrics(outputs: Sequence[float], targets: Sequence[float]) -> RegressionMetrics:
    errors = [output - target for output, target in zip(outputs, targets, strict=True)]
    output_deviations, target_deviations = _deviations(outputs), _deviations(targets)
    squared_error, variation = _sum_of_squares(errors), _sum_of_squares(target_deviations)
    mse = squared_error / len(errors)
    return RegressionMetrics(
        mae=_mean(map(abs, errors), len(errors)),
        mse=mse,
        rmse=math.sqrt(mse),
        r2=1 - squared_error / variation if variation else math.nan,
        bias=_mean(errors, len(errors)),
        pearson=_correlation(output_deviations, target_deviations),
    )


def _deviations(values: Sequence[float]) -> list[float]:
    """Return the deviations from the mean: exactly zero where all values are equal, whatever the mean rounds to."""
    if min(values) == max(values):
        return [0.0] * len(values)
    mean = _mean(values, len(values))
    return [value - mean for value in values]


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    scale = math.sqrt(_sum_of_squares(first)) * math.sqrt(_sum_of_squares(second))
    if not scale:
        return math.nan
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(first, second, strict=True)) / scale))


def _mean(values: Iterable[float], num_values: int) -> float:
    return math.fsum(values) / num_values


def _sum_of_squares(values: Sequence[float]) -> float:
    return math.fsum(value * value for value in values)
