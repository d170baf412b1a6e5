"""Metrics of regression, against scikit-learn's and SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from reslab.metrics.regression import mean_regression_metrics, regression_metrics


def make_case(num_samples: int, num_targets: int, scale: float = 1.0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_samples)
    targets = offset + scale * torch.randn(num_samples, num_targets, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_samples, num_targets, generator=generator, dtype=torch.float64)
    return 0.8 * targets + 0.3 * scale * noise + 0.1, targets


@pytest.mark.parametrize("num_samples", [2, 3, 500])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-3, 1e3), (1e6, -1e6)])
def test_metrics_equal_sklearn(num_samples: int, scale: float, offset: float) -> None:
    outputs, targets = make_case(num_samples, 4, scale, offset)
    results = regression_metrics(outputs, targets)
    references = {
        "mae": sklearn_metrics.mean_absolute_error,
        "mse": sklearn_metrics.mean_squared_error,
        "rmse": sklearn_metrics.root_mean_squared_error,
        "r2": sklearn_metrics.r2_score,
    }
    mean = mean_regression_metrics(results)
    for name, reference in references.items():
        expected = reference(targets, outputs, multioutput="raw_values")
        np.testing.assert_allclose([getattr(one, name) for one in results], expected, rtol=1e-9)
        np.testing.assert_allclose(getattr(mean, name), reference(targets, outputs), rtol=1e-9)
    np.testing.assert_allclose([one.bias for one in results], (outputs - targets).mean(0), rtol=1e-7, atol=1e-9)
    correlations = [pearsonr(outputs[:, index], targets[:, index]).statistic for index in range(4)]
    np.testing.assert_allclose([one.pearson for one in results], correlations, rtol=1e-7)


@pytest.mark.parametrize("value", [0.1, 1e6 / 3, 0.0])
def test_constant_targets_have_no_r2_and_are_left_out_of_its_mean(value: float) -> None:
    outputs, targets = make_case(6, 2)
    targets[:, 1] = value  # the mean of six times 0.1 is not 0.1
    constant = regression_metrics(outputs, targets)[1]
    assert math.isnan(constant.r2)
    assert math.isnan(constant.pearson)
    assert constant.mae == pytest.approx(sklearn_metrics.mean_absolute_error(targets[:, 1], outputs[:, 1]), rel=1e-12)
    expected = sklearn_metrics.r2_score(targets[:, 0], outputs[:, 0])
    assert mean_regression_metrics(regression_metrics(outputs, targets)).r2 == pytest.approx(expected, rel=1e-12)


def test_constant_outputs_have_an_r2_but_no_correlation() -> None:
    _, targets = make_case(7, 1)
    result = regression_metrics(torch.full_like(targets, 0.1), targets)[0]
    assert result.r2 == pytest.approx(sklearn_metrics.r2_score(targets, torch.full_like(targets, 0.1)), rel=1e-12)
    assert math.isnan(result.pearson)


def test_one_sample_has_errors_only() -> None:
    result = regression_metrics(torch.tensor([[3.0]]), torch.tensor([[1.0]]))[0]
    assert (result.mae, result.mse, result.rmse, result.bias) == (2, 4, 2, 2)
    assert math.isnan(result.r2)


def test_results_do_not_depend_on_the_order() -> None:
    outputs, targets = make_case(1000, 2, scale=1e3)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert regression_metrics(outputs, targets) == regression_metrics(outputs[order], targets[order])


def test_perfect_outputs_score_one() -> None:
    _, targets = make_case(50, 1)
    result = regression_metrics(targets, targets)[0]
    assert (result.mae, result.r2) == (0, 1)
    assert result.pearson == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3, 2), "outputs and targets of one shape"),
        (torch.zeros(3), torch.zeros(3), r"outputs of shape \(N, K\)"),
        (torch.zeros(0, 1), torch.zeros(0, 1), "N, K >= 1"),
        (torch.tensor([[math.inf]]), torch.zeros(1, 1), "finite outputs"),
        (torch.zeros(1, 1), torch.tensor([[math.nan]]), "finite targets"),
    ],
)
def test_bad_input_is_an_error(outputs: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression_metrics(outputs, targets)
