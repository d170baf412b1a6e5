"""The pages of a rate search and of several runs: sound, the same every time, their words after their numbers."""

import pytest
from page_reader import assert_sound
from sample_pages import sample_log

from reslab.report.pages.compare import ComparedRun, ComparePage
from reslab.report.pages.lr_find import LRFinderPage
from reslab.report.render import render_page


def _rates(**changes: object) -> LRFinderPage:
    rates = [10 ** (k / 10 - 5) for k in range(50)]
    losses = [2.3 - 0.02 * k for k in range(49)] + [80.0]
    values = {"title": "resnet20_cifar on digits", "lrs": rates, "losses": losses, "smoothed_losses": losses}
    marks = {"suggested_lr": rates[30], "lowest_loss_lr": rates[48], "rise_lr": rates[49]}
    return LRFinderPage(**{**values, **marks, "summary": "It falls until 0.63.", **changes})  # type: ignore[arg-type]


def _run(name: str, top1: float | None = 0.9, data: str = "digits", epochs: int = 8) -> ComparedRun:
    return ComparedRun(name, "resnet20_cifar", data, "digits", sample_log(epochs), 0, top1, 0.3, 12.0)


def test_the_page_of_a_rate_search() -> None:
    html = render_page(_rates(metadata={"batch": "64"}))
    page = assert_sound(html)
    assert html == render_page(_rates(metadata={"batch": "64"}))
    assert "It falls until 0.63." in page.text
    tiles = {"suggested learning rate": "0.01", "lowest loss at": "0.63", "loss rises from": "0.79"}
    assert all(f"{name} {value}" in page.text for name, value in tiles.items())
    assert "The test reached the maximum learning rate." in page.text
    assert "stopped when the loss diverged" in assert_sound(render_page(_rates(diverged=True))).text


def test_no_suggestion_is_said() -> None:
    none = _rates(suggested_lr=None, lowest_loss_lr=None, rise_lr=None, next_command="reslab train digits")
    text = assert_sound(render_page(none)).text
    assert "no clear suggestion" in text
    assert "reslab train digits" in text


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="as many losses and smoothed losses as learning rates"):
        render_page(_rates(lrs=[0.1]))


def test_runs_are_laid_over_each_other() -> None:
    runs = [_run("first", 0.91), _run("<second>", 0.95, epochs=20), _run("third", None)]
    html = render_page(ComparePage("three runs", runs))
    page = assert_sound(html)
    assert html == render_page(ComparePage("three runs", runs))
    labels = [label.split(" against")[0] for label in page.values("aria-label") if "against" in label]
    assert labels == ["Accuracy", "Training accuracy", "Loss", "Training loss"]
    assert "<second> is the most accurate, at 95.00 %, 4.00 points above first" in page.text
    assert page.text.count("resnet20_cifar") == 3


def test_many_runs_have_each_a_line_of_their_own() -> None:
    runs = [_run(f"run {number}", 0.9) for number in range(6)]
    text = assert_sound(render_page(ComparePage("six runs", runs))).text
    assert "run 0 and run 1 are equally accurate, at 90.00 %" in text
    assert text.count("run 5") >= 5  # the table, and a legend in each panel


def test_different_data_is_not_held_against_each_other() -> None:
    text = assert_sound(render_page(ComparePage("two", [_run("a"), _run("b", 0.8, "mnist")]))).text
    assert "not comparable" in text


def test_a_run_without_lines_still_has_a_row() -> None:
    text = assert_sound(render_page(ComparePage("one", [ComparedRun("new", "resnet18", "mnist", "fashion")]))).text
    assert "none of them finished" in text
    assert "resnet18" in text


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render_page(ComparePage("none", []))
