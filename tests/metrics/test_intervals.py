"""Intervals and paired tests: the recorded values of an independent implementation in pure Python, and hand counts."""

import subprocess
import sys

import pytest
import torch

from reslab.metrics.intervals import (
    clopper_pearson_interval,
    mcnemar_p_value,
    paired_t_p_value,
    run_paired_test,
    t_quantile,
)

T_QUANTILES = {
    0.3: (-6582.0356994006925, 0.5023012820593049, 6582.0356994006925, 1406890.343520972),
    1: (-12.706204736174659, 0.32491969623290673, 12.706204736174659, 63.65674116287079),
    1.5: (-6.016663104427922, 0.30074539256979516, 6.016663104427922, 17.820310514462662),
    2: (-4.302652729749456, 0.28867513459481275, 4.302652729749456, 9.924843200918229),
    3: (-3.1824463052837046, 0.27667066233268955, 3.1824463052837046, 5.840909309733332),
    4.7: (-2.6207260753531676, 0.2680827195410319, 2.6207260753531676, 4.167892040119044),
    10: (-2.228138851986274, 0.26018482949207944, 2.228138851986274, 3.169272672616944),
    37.2: (-2.025824819047786, 0.2551665259313183, 2.025824819047786, 2.7146211226456423),
    200: (-1.971896223633912, 0.2536843791901522, 1.971896223633912, 2.600634436191557),
    5000: (-1.960438551707226, 0.2533605839687365, 1.960438551707226, 2.576812966556731),
}


@pytest.mark.parametrize("df", T_QUANTILES)
def test_quantiles_of_students_t(df: float) -> None:
    values = [t_quantile(p, df) for p in (0.025, 0.6, 0.975, 0.995)]
    assert values == pytest.approx(T_QUANTILES[df], rel=1e-12, abs=1e-12)
    assert t_quantile(0.5, df) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value", "interval"),
    [
        (0, 0, 1.0, (0.0, 1.0)),
        (0, 1, 1.0, (0.02499999999999991, 1.0)),
        (1, 1, 1.0, (0.012579117093424852, 0.9874208829065751)),
        (3, 9, 0.14599609375, (0.42814153812180633, 0.9451393554720071)),
        (9, 3, 0.14599609375, (0.054860644527992, 0.5718584618781892)),
        (0, 12, 0.00048828125, (0.7353515306029457, 1.0)),
        (40, 25, 0.08168153394154005, (0.2665359382954491, 0.5135702672227338)),
        (200, 260, 0.005883922473103979, (0.5185317009205161, 0.6110592799740098)),
        (500, 480, 0.5439172374909197, (0.4580587147431019, 0.521594596366096)),
    ],
)
def test_mcnemar_and_clopper_pearson(
    only_first: int, only_second: int, p_value: float, interval: tuple[float, float]
) -> None:
    assert mcnemar_p_value(only_first, only_second) == pytest.approx(p_value, rel=1e-12)
    ends = clopper_pearson_interval(only_second, only_first + only_second)
    assert ends == pytest.approx(interval, rel=1e-12, abs=1e-12)


def test_a_paired_test_counts_the_four_cases() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    test = run_paired_test(torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 1]), labels)
    assert (test.both_correct, test.only_first, test.only_second, test.neither_correct) == (2, 0, 2, 1)
    assert test.agreement == pytest.approx(2 / 5)
    assert test.difference == pytest.approx(2 / 5)
    assert (test.p_value, test.ci_high) == (0.5, pytest.approx(2 / 5))


def test_importing_the_module_does_not_load_scipy() -> None:
    code = "import sys, reslab.metrics.intervals; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_paired_t_test_of_seeds() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3) with 2 degrees of freedom."""
    t = 2 * 3**0.5
    exact = 1 - t / (2 + t * t) ** 0.5  # 1 - F(t) + F(-t) of Student's t with 2 degrees of freedom
    assert paired_t_p_value([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(exact, rel=1e-9)
    assert paired_t_p_value([1.0], [2.0]) is None
    assert paired_t_p_value([0.9, 0.8], [0.8, 0.7]) is None  # equal differences: their spread is unknown
