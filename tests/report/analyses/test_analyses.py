"""Answers as they are shown: words, figures and tables from the plain data of real answers."""

from collections.abc import Mapping
from typing import Any

import pytest

from reslab.analysis.open_targets import open_targets
from reslab.analysis.registry import run_analysis
from reslab.analysis.target import AnalysisTarget
from reslab.report.analyses import render_analysis
from reslab.report.analyses.lesion import shortest_carrying_range
from reslab.report.analyses.result import RenderedResult
from reslab.report.pages.analysis import AnalysisPage
from reslab.report.plots.export import render_png
from reslab.report.render import render_page
from reslab.spec.config import to_dict

SMALL = "depths=2,1,1:widths=4,8,8:stem=conv3(4) norm act:in_channels=1"


@pytest.fixture(scope="module")
def subjects() -> list[AnalysisTarget]:
    places = [f"resnet20_cifar:{SMALL}", f"plain20_cifar:{SMALL}"]
    return open_targets(places, num_images=12, arch_overrides={"image_size": "8,8"})


def shown(question: str, subjects: list[AnalysisTarget], settings: Mapping[str, Any]) -> RenderedResult:
    """The answer shown, drawn as a page and as an image, too."""
    rendered = render_analysis(question, [to_dict(result) for result in run_analysis(question, subjects, settings)])
    page = render_page(AnalysisPage(question, "what is asked", "who asked it", rendered))
    assert page.count("<svg") == len(rendered.figures)
    assert render_png(rendered.figures, rendered.title).startswith(b"\x89PNG")
    assert all(figure.alt_text for figure in rendered.figures)
    return rendered


LESION = {"draws": 2, "path_draws": 2, "path_images": 4}


def test_lesion_draws_both_networks_in_each_figure(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("lesion", subjects, LESION)
    assert len(rendered.figures) == 5
    assert len(rendered.tables) == 2
    assert "deleting one block raises it by" in rendered.paragraphs[0]
    assert any("a plain network has only one" in words for words in rendered.paragraphs)
    assert "reason" in rendered.tables[1].columns
    assert "reason" not in rendered.tables[0].columns


def test_lesion_without_draws(subjects: list[AnalysisTarget]) -> None:
    assert len(shown("lesion", subjects, {"draws": 0, "path_draws": 0}).figures) == 1


@pytest.mark.parametrize(
    ("shares", "ends"), [([0.05, 0.5, 0.4, 0.05], (1, 2)), ([1.0, 0.0], (0, 0)), ([0.5, 0.5], (0, 1))]
)
def test_the_lengths_that_carry_the_gradient(shares: list[float], ends: tuple[int, int]) -> None:
    assert shortest_carrying_range(shares) == ends


LANDSCAPE = {
    "points_per_axis": 3,
    "curvature_points": 2,
    "lanczos_iterations": 2,
    "num_hessian_images": 4,
    "num_eigenvalues": 1,
}


def test_landscape_has_maps_heights_a_line_and_cells(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("landscape", subjects, LANDSCAPE)
    titles = [
        "Loss contours",
        "Loss surface",
        "Loss along one direction",
        "Convexity of the loss surface",
    ]
    assert [figure.title for figure in rendered.figures] == titles
    assert "the largest eigenvalue at the weights" in rendered.paragraphs[0]
    assert len(rendered.tables[0].rows) == 2
    assert "on the line through the weights" in rendered.figures[2].alt_text


def test_a_grid_that_misses_the_weights_does_not_claim_a_line_through_them(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("landscape", subjects[:1], {"points_per_axis": 2, "curvature_points": 0, "num_eigenvalues": 0})
    assert "nearest to the weights" in rendered.figures[2].alt_text
    assert "the weights" not in rendered.figures[2].figure.axes[0].get_xlabel()


def test_landscape_of_one_dimension_is_a_line(subjects: list[AnalysisTarget]) -> None:
    assert len(shown("landscape", subjects, {**LANDSCAPE, "dimensions": 1}).figures) == 1


def test_attribution_has_a_row_for_each_image(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("attribution", subjects, {"num_images": 2, "num_steps": 2})
    assert len(rendered.figures) == 2
    assert [len(table.rows) for table in rendered.tables] == [2, 2]


def test_features_have_maps_and_kernels(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("features", subjects, {"max_channels": 3})
    assert len(rendered.figures) == 4
    assert "channels are dead (zero on all 12 images)" in rendered.paragraphs[0]


def test_similarity_has_a_panel_for_each_pair(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("similarity", subjects, {})
    assert (len(rendered.figures), len(rendered.tables)) == (1, 3)
    assert "highest between" in rendered.paragraphs[2]


def test_nearest_has_a_row_for_each_query(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("nearest", subjects, {"num_queries": 2, "num_neighbors": 3, "max_searched": 40})
    assert len(rendered.figures) == 2
    assert "nearest images in the training split" in rendered.paragraphs[0]


def test_probes_are_drawn_in_one_figure(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("probes", subjects, {"max_fit_images": 60})
    assert (len(rendered.figures), len(rendered.tables)) == (1, 2)
    assert "The network itself reaches" in rendered.paragraphs[0]


def test_compare_states_a_verdict(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("compare", subjects, {"max_flipped": 9})
    assert [figure.title for figure in rendered.figures] == [
        "Images on which they disagree",
        "Distance between the weights",
    ]
    assert "by McNemar's exact test" in rendered.paragraphs[0]
    assert "with probability" in rendered.paragraphs[1]
    assert rendered.tables[1].rows[0][0].endswith("correct")


def test_compare_of_equal_networks(subjects: list[AnalysisTarget]) -> None:
    rendered = shown("compare", [subjects[0], subjects[0]], {})
    assert "are correct on the same images" in rendered.paragraphs[0]


def test_compare_of_runs_has_their_curves() -> None:
    log = [
        {"kind": "train", "step": 10, "epoch": 1.0, "loss": 2.0, "top1": 0.2},
        {"kind": "eval", "step": 10, "epoch": 1.0, "split": "test", "loss": 1.9, "top1": 0.3},
        {"kind": "train", "step": 20, "epoch": 2.0, "loss": 1.0, "top1": 0.6},
        {"kind": "eval", "step": 20, "epoch": 2.0, "split": "test", "loss": 1.2, "top1": 0.7},
    ]
    network = {
        "score": 0.7,
        "loss": 1.2,
        "num_parameters": 10,
        "arch": "m",
        "dataset": "d",
        "recipe": "r",
        "seed": 0,
    }
    test = {
        "both_correct": 5,
        "only_first": 0,
        "only_second": 9,
        "neither_correct": 1,
        "agreement": 0.5,
        "p_value": 0.004,
    }
    result = {
        "models": [{**network, "name": "a", "log": log}, {**network, "name": "b", "log": log}],
        "task": "classification",
        "metric": "top1",
        "num_images": 15,
        "split": "test",
        "paired_test": {**test, "difference": 0.6, "ci_low": 0.1, "ci_high": 0.6},
        "flipped": [],
        "weight_distances": [],
        "num_unmatched": 4,
    }
    rendered = render_analysis("compare", [result])
    assert [figure.title for figure in rendered.figures] == ["Accuracy", "Training loss"]
    assert rendered.paragraphs[0].startswith("b is 60.00 points more accurate than a")
    assert "significant by McNemar's exact test: p = 0.004" in rendered.paragraphs[0]
    assert "no weights of the same name" in rendered.paragraphs[3]
