"""Student's t, against scipy's."""

import pytest
from scipy import special, stats

from reslab.metrics.intervals import regularized_beta, t_cdf, t_quantile


@pytest.mark.parametrize("freedom", [0.3, 1, 1.5, 2, 3, 4.7, 10, 37.2, 200, 5000])
def test_quantiles_are_scipys(freedom: float) -> None:
    for p in (0.001, 0.025, 0.2, 0.5, 0.6, 0.9, 0.975, 0.995):
        assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("t", [-30.0, -2.0, -0.01, 0.0, 0.5, 3.0, 100.0])
def test_probabilities_are_scipys(t: float) -> None:
    for freedom in (0.7, 1, 3, 12.5, 300):
        assert t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), rel=1e-10, abs=1e-14)


def test_the_incomplete_beta_is_scipys() -> None:
    for x in (0.0, 1e-6, 0.2, 0.5, 0.9, 1.0):
        for a, b in ((0.5, 0.5), (2, 0.5), (100, 0.5), (3, 7)):
            assert regularized_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-10, abs=1e-14)
