"""The metrics of each target on a page."""

import torch

from reslab.metrics.regression import regression_metrics
from reslab.report.pages.regression import RegressionRow, _target_row


def test_metrics_that_are_not_defined_have_a_dash() -> None:
    (metrics,) = regression_metrics(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [2.0]]))
    assert _target_row(RegressionRow("width", metrics)) == ["width", "1.000", "1.000", "–", "0.000", "–"]
