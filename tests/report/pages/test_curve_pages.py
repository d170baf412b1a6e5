"""The pages of a rate search and of several runs: sound, the same every time, their words after their numbers."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from page_reader import assert_sound
from sample_pages import sample_log
from scipy.stats import ttest_rel

from reslab.report.pages.compare import ComparedRun, ComparePage, compare_summary_text
from reslab.report.pages.lr_find import LRFinderPage
from reslab.report.render import render_page


def _rates(**changes: object) -> LRFinderPage:
    rates = [10 ** (k / 10 - 5) for k in range(50)]
    losses = [2.3 - 0.02 * k for k in range(49)] + [80.0]
    values = {"title": "resnet20_cifar on digits", "lrs": rates, "losses": losses, "smoothed_losses": losses}
    marks = {"suggested_lr": rates[30], "lowest_loss_lr": rates[48], "rise_lr": rates[49]}
    return LRFinderPage(**{**values, **marks, "summary": "It falls until 0.63.", **changes})  # type: ignore[arg-type]


def _run(name: str, value: float | None = 0.9, data: str = "digits", epochs: int = 8) -> ComparedRun:
    log = sample_log(epochs)
    return ComparedRun(name, "resnet20_cifar", data, "digits", log, value=value, loss=0.3, train_seconds=12.0)


def _evaluated(name: str, correct: Sequence[bool], images: str = "test") -> ComparedRun:
    """A run with this correctness of each image."""
    return replace(_run(name, sum(correct) / len(correct)), correct=tuple(correct), images=images)


def _seeds(group: str, accuracies: Sequence[float]) -> list[ComparedRun]:
    """The runs of a group, with the seeds 0, 1, ..."""
    return [
        replace(_run(f"{group}/seed{seed}", accuracy), seed=seed, group=group)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_page_of_a_rate_search() -> None:
    html = render_page(_rates(metadata={"batch": "64"}))
    page = assert_sound(html)
    assert html == render_page(_rates(metadata={"batch": "64"}))
    assert "It falls until 0.63." in page.text
    tiles = {"suggested learning rate": "0.01", "lowest loss at": "0.63", "loss rises from": "0.79"}
    assert all(f"{name} {value}" in page.text for name, value in tiles.items())
    assert "The test reached the maximum learning rate." in page.text
    assert "stopped when the loss diverged" in assert_sound(render_page(_rates(diverged=True))).text


def test_a_missing_suggestion_is_stated() -> None:
    none = _rates(suggested_lr=None, lowest_loss_lr=None, rise_lr=None, next_command="reslab train digits")
    text = assert_sound(render_page(none)).text
    assert "no clear suggestion" in text
    assert "reslab train digits" in text


def test_lists_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="as many losses and smoothed losses as learning rates"):
        render_page(_rates(lrs=[0.1]))


def test_each_metric_is_one_figure_with_a_line_for_each_run() -> None:
    runs = [_run("first", 0.91), _run("<second>", 0.95, epochs=20), _run("third", None)]
    html = render_page(ComparePage("three runs", runs))
    page = assert_sound(html)
    assert html == render_page(ComparePage("three runs", runs))
    labels = [label.split(" against")[0] for label in page.values("aria-label") if "against" in label]
    assert labels == ["Accuracy", "Training accuracy", "Loss", "Training loss"]
    assert "No winner: <second> reaches 95.00 %, 4.00 points higher than first, but no paired test applies" in page.text
    assert page.text.count("resnet20_cifar") == 3


def test_runs_without_a_loss_in_evaluation_have_no_plot_and_no_column_for_it() -> None:
    train = [{"kind": "train", "step": 10 * k, "epoch": k, "loss": 2 / k} for k in range(1, 6)]
    log = [*train, *({"kind": "eval", "split": "val", "epoch": k, "loss": None, "ap": 0.1 * k} for k in range(1, 6))]
    runs = [replace(_run(name, 0.41), task="detection", loss=None, log=log) for name in ("first", "second")]
    html = render_page(ComparePage("two detectors", runs))
    page = assert_sound(html)
    labels = [label.split(" against")[0] for label in page.values("aria-label") if "against" in label]
    assert labels == ["COCO AP", "Training loss"]
    assert "seed AP training time" in page.text
    assert "AP loss" not in page.text


def test_each_of_many_runs_has_its_own_line() -> None:
    runs = [_run(f"run {number}", 0.9) for number in range(6)]
    text = assert_sound(render_page(ComparePage("six runs", runs))).text
    assert "run 0 and run 1 have the same accuracy, 90.00 %" in text
    assert text.count("run 5") >= 5  # the table, and a legend in each panel


def test_two_runs_within_chance_have_no_winner() -> None:
    """A lead of one image in 153, 0.65 points."""
    better, worse = [True] * 110 + [False] * 43, [True] * 109 + [False] * 44
    text = compare_summary_text([_evaluated("a", worse), _evaluated("b", better)])
    assert text == (
        "No winner: b reaches 71.90 %, 0.65 points higher than a, which chance can explain "
        "(exact McNemar test on 153 images, p = 1)."
    )


def test_two_runs_that_mcnemars_test_separates_have_a_winner() -> None:
    """12 flips, all in favour of one run: p = 2 / 2**12."""
    better, worse = [True] * 20, [True] * 8 + [False] * 12
    text = compare_summary_text([_evaluated("a", worse), _evaluated("b", better)])
    assert text.startswith("b has the highest accuracy, 100.00 %, 60.00 points higher than a (exact McNemar")
    assert "p = 0.00049" in text
    other_images = compare_summary_text([_evaluated("a", worse), _evaluated("b", better, images="other")])
    assert "no paired test applies" in other_images


def test_seeds_are_compared_by_the_paired_t_test() -> None:
    first, second = [0.90, 0.91, 0.93, 0.92], [0.88, 0.90, 0.90, 0.90]
    text = compare_summary_text([*_seeds("wide", first), *_seeds("narrow", second)])
    p_value = ttest_rel(first, second).pvalue
    assert p_value < 0.05
    assert text == (
        "wide has the highest accuracy, 91.50 ± 1.29 % (n = 4), 2.00 points higher than narrow "
        f"(paired t-test over 4 seeds, p = {p_value:.2g})."
    )
    noisy = compare_summary_text([*_seeds("wide", [0.90, 0.91]), *_seeds("narrow", [0.85, 0.90])])
    assert noisy.startswith("No winner: wide reaches 90.50 ± 0.71 % (n = 2), 3.00 points higher than narrow")


def test_many_comparisons_need_stronger_evidence() -> None:
    first, second = [0.90, 0.91, 0.93, 0.92], [0.88, 0.90, 0.90, 0.90]
    others = [run for number in range(3) for run in _seeds(f"other {number}", [0.5, 0.6, 0.55, 0.52])]
    text = compare_summary_text([*_seeds("wide", first), *_seeds("narrow", second), *others])
    assert text.startswith("No winner of 5: wide reaches")


def test_runs_on_different_data_are_not_compared() -> None:
    text = assert_sound(render_page(ComparePage("two", [_run("a"), _run("b", 0.8, "mnist")]))).text
    assert "not comparable" in text


def test_a_run_without_a_log_has_a_row() -> None:
    text = assert_sound(render_page(ComparePage("one", [ComparedRun("new", "resnet18", "mnist", "fashion")]))).text
    assert "none of them finished" in text
    assert "resnet18" in text


def test_a_comparison_without_runs_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render_page(ComparePage("none", []))
