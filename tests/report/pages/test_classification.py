"""Reliability on a page: the bars are the bins, the words are the numbers."""

import math
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from page_reader import assert_sound
from sample_pages import sample_run

from reslab.report.colors import EVALUATION
from reslab.report.pages.classification import calibration_paragraphs, chance_ece
from reslab.report.plots.bars import plot_reliability
from reslab.report.render import render_page


def one_bin(
    low: float, num_samples: int, confidence: float | None = None, accuracy: float | None = None
) -> dict[str, Any]:
    return {"low": low, "high": low + 0.25, "num_samples": num_samples, "confidence": confidence, "accuracy": accuracy}


BINS = [one_bin(0, 0), one_bin(0.25, 4, 0.4, 0.25), one_bin(0.5, 36, 0.6, 0.5), one_bin(0.75, 60, 0.95, 0.9)]
SCALED = [one_bin(0, 0), one_bin(0.25, 20, 0.35, 0.3), one_bin(0.5, 80, 0.7, 0.8), one_bin(0.75, 0)]
PLAIN = {"ece": 0.072, "mce": 0.15, "reliability": BINS}
FITTED = {
    **PLAIN, "temperature": 1.6, "fit_split": "val", "fit_num_samples": 1000, "ece_after": 0.0123, "loss_after": 0.3,
    "reliability_after": SCALED, "cross_fitted": False,
}  # fmt: skip


def bars(figure: Figure, axes: int) -> list[tuple[float, float, float]]:
    return [
        (round(bar.get_x() + bar.get_width() / 2, 6), bar.get_height(), bar.get_alpha() or 1.0)
        for bar in figure.axes[axes].patches
    ]


def test_a_bar_is_a_bins_accuracy_and_the_counts_are_below() -> None:
    figure = plot_reliability(BINS, SCALED, 10)
    assert bars(figure, 0) == [(0.375, 0.25, 0.35), (0.625, 0.5, 1.0), (0.875, 0.9, 1.0)]
    assert {to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches} == {EVALUATION}
    assert [height for _, height, _ in bars(figure, 1)] == [4, 36, 60]
    dots = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dots == [[[0.35, 0.3]], [[0.7, 0.8]]]
    assert [[0.0, 0.0], [1.0, 1.0]] in [line.get_xydata().tolist() for line in figure.axes[0].lines]


def test_the_text_states_the_numbers() -> None:
    balance, error, temperature = calibration_paragraphs(FITTED, "test")
    assert "Mean confidence 80.2 %, accuracy 73.0 %: the network is overconfident." in balance
    assert "7.20 %" in error
    assert (
        "Temperature scaling on 1,000 validation images gives T = 1.60: the network was overconfident." in temperature
    )
    assert "the ECE on these test images is 1.23 %." in temperature
    halves = calibration_paragraphs({**FITTED, "cross_fitted": True, "temperature": 0.8}, "val")[2]
    assert "underconfident" in halves
    assert "one half" in halves
    assert "never uses the test set" in calibration_paragraphs(PLAIN, "test")[2]
    few = {name: value for name, value in FITTED.items() if "after" not in name}
    assert "Too few images are misclassified" in calibration_paragraphs(few, "val")[2]
    level = {**PLAIN, "reliability": [one_bin(0.5, 1000, 0.6, 0.601)]}
    assert "well calibrated on average" in calibration_paragraphs(level, "test")[0]


def test_the_error_by_chance_is_that_of_draws() -> None:
    """The mean over binomial draws of the calibration error of a perfect network, exactly summed for each bin."""
    bins = [one_bin(0.25, 40, 0.4, 0.0), one_bin(0.75, 60, 0.9, 0.0)]
    expected = 0.0
    for one in bins:
        n, p = one["num_samples"], one["confidence"]
        shares = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        expected += sum(share * abs(k / n - p) for k, share in enumerate(shares)) * n / 100
    assert chance_ece(bins) == pytest.approx(expected, rel=0.03)
    assert chance_ece([one_bin(0.75, 10, 1.0, 1.0)]) == 0


def test_the_page_has_it_where_there_is_something_to_show() -> None:
    page = assert_sound(render_page(sample_run(calibration=FITTED)))
    assert "Calibration" in page.text
    assert any((figure["aria-label"] or "").startswith("Reliability diagram") for figure in page.tags("svg"))
    assert "25 to 50 %" in page.text
    assert "0 to 25 %" not in page.text
    assert render_page(sample_run(calibration=FITTED)) == render_page(sample_run(calibration=FITTED))
    assert "Calibration" not in assert_sound(render_page(sample_run())).text
