"""Answers as they are shown: words, figures and tables from the plain data of real answers."""

from collections.abc import Mapping
from typing import Any

import pytest

from reslab.analysis.registry import ask
from reslab.analysis.subject import Subject, open_subjects
from reslab.report.analyses import show_answers
from reslab.report.analyses.lesion import carrying_lengths
from reslab.report.analyses.result import QuestionPage, Shown
from reslab.report.plots.png import png
from reslab.report.render import render_question
from reslab.spec.config import to_dict

SMALL = "depths=2,1,1:widths=4,8,8:stem=conv3(4) norm act:in_channels=1"


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    places = [f"resnet20_cifar:{SMALL}", f"plain20_cifar:{SMALL}"]
    return open_subjects(places, num_images=12, axes={"image_size": "8,8"})


def shown(question: str, subjects: list[Subject], settings: Mapping[str, Any]) -> Shown:
    """The answer shown, drawn as a page and as a picture, too."""
    found = show_answers(question, [to_dict(answer) for answer in ask(question, subjects, settings)])
    page = render_question(QuestionPage(question, "what is asked", "who asked it", found))
    assert page.count("<svg") == len(found.figures)
    assert png(found.figures, found.title).startswith(b"\x89PNG")
    assert all(figure.label for figure in found.figures)
    return found


LESION = {"draws": 2, "path_draws": 2, "path_images": 4}


def test_lesion_lays_both_networks_on_each_picture(subjects: list[Subject]) -> None:
    found = shown("lesion", subjects, LESION)
    assert len(found.figures) == 5
    assert len(found.tables) == 2
    assert "deleting one unit costs" in found.words[0]
    assert any("plain network has one path" in words for words in found.words)
    assert "why not" in found.tables[1].columns
    assert "why not" not in found.tables[0].columns


def test_lesion_without_draws(subjects: list[Subject]) -> None:
    assert len(shown("lesion", subjects, {"draws": 0, "path_draws": 0}).figures) == 1


@pytest.mark.parametrize(
    ("shares", "ends"), [([0.05, 0.5, 0.4, 0.05], (1, 2)), ([1.0, 0.0], (0, 0)), ([0.5, 0.5], (0, 1))]
)
def test_the_lengths_that_carry_the_gradient(shares: list[float], ends: tuple[int, int]) -> None:
    assert carrying_lengths(shares) == ends


LANDSCAPE = {"points": 3, "curvature": 2, "iterations": 2, "hessian_images": 4, "eigenvalues": 1}


def test_landscape_has_maps_heights_a_line_and_cells(subjects: list[Subject]) -> None:
    found = shown("landscape", subjects, LANDSCAPE)
    titles = [
        "Lines of equal loss",
        "The loss as a height",
        "The loss along one direction",
        "Where the surface is not convex",
    ]
    assert [figure.title for figure in found.figures] == titles
    assert "the largest eigenvalue at the weights" in found.words[0]
    assert len(found.tables[0].rows) == 2
    assert "on the line through the weights" in found.figures[2].label


def test_a_grid_that_misses_the_weights_does_not_claim_a_line_through_them(subjects: list[Subject]) -> None:
    found = shown("landscape", subjects[:1], {"points": 2, "curvature": 0, "eigenvalues": 0})
    assert "nearest to the weights" in found.figures[2].label
    assert "the weights" not in found.figures[2].figure.axes[0].get_xlabel()


def test_landscape_of_one_dimension_is_a_line(subjects: list[Subject]) -> None:
    assert len(shown("landscape", subjects, {**LANDSCAPE, "dimensions": 1}).figures) == 1


def test_attribution_has_a_row_a_picture(subjects: list[Subject]) -> None:
    found = shown("attribution", subjects, {"pictures": 2, "steps": 2})
    assert len(found.figures) == 2
    assert [len(table.rows) for table in found.tables] == [2, 2]


def test_features_have_maps_and_kernels(subjects: list[Subject]) -> None:
    found = shown("features", subjects, {"channels": 3})
    assert len(found.figures) == 4
    assert "channels are silent on all 12 pictures" in found.words[0]


def test_similarity_has_a_panel_a_pair(subjects: list[Subject]) -> None:
    found = shown("similarity", subjects, {})
    assert (len(found.figures), len(found.tables)) == (1, 3)
    assert "most alike are" in found.words[2]


def test_nearest_has_a_row_a_query(subjects: list[Subject]) -> None:
    found = shown("nearest", subjects, {"queries": 2, "neighbours": 3, "most": 40})
    assert len(found.figures) == 2
    assert "nearest pictures in the train split" in found.words[0]


def test_probes_lie_on_one_picture(subjects: list[Subject]) -> None:
    found = shown("probes", subjects, {"most": 60})
    assert (len(found.figures), len(found.tables)) == (1, 2)
    assert "The network itself is right on" in found.words[0]


def test_compare_has_a_verdict_in_words(subjects: list[Subject]) -> None:
    found = shown("compare", subjects, {"pictures": 9})
    assert [figure.title for figure in found.figures] == ["Predictions that flipped", "Distance between the weights"]
    assert "by McNemar's exact test" in found.words[0]
    assert "with probability" in found.words[1]
    assert found.tables[1].rows[0][0].endswith("right")


def test_compare_of_equal_networks(subjects: list[Subject]) -> None:
    found = shown("compare", [subjects[0], subjects[0]], {})
    assert "are right on the same pictures" in found.words[0]


def test_compare_of_runs_has_their_curves() -> None:
    log = [
        {"kind": "train", "step": 10, "epoch": 1.0, "loss": 2.0, "top1": 0.2},
        {"kind": "eval", "step": 10, "epoch": 1.0, "split": "test", "loss": 1.9, "top1": 0.3},
        {"kind": "train", "step": 20, "epoch": 2.0, "loss": 1.0, "top1": 0.6},
        {"kind": "eval", "step": 20, "epoch": 2.0, "split": "test", "loss": 1.2, "top1": 0.7},
    ]
    network = {"accuracy": 0.7, "loss": 1.2, "num_parameters": 10, "model": "m", "data": "d", "recipe": "r", "seed": 0}
    test = {"both": 5, "only_first": 0, "only_second": 9, "neither": 1, "agree": 0.5, "p_value": 0.004}
    answer = {
        "networks": [{**network, "name": "a", "log": log}, {**network, "name": "b", "log": log}],
        "num_images": 15,
        "split": "test",
        "paired": {**test, "difference": 0.6, "low": 0.1, "high": 0.6},
        "flipped": [],
        "weights": [],
        "num_other": 4,
    }
    found = show_answers("compare", [answer])
    assert [figure.title for figure in found.figures] == ["Accuracy", "Training loss"]
    assert found.words[0].startswith("b is 60.00 points more accurate than a")
    assert "more than chance would give: p = 0.004" in found.words[0]
    assert "no weights of the same name" in found.words[3]
