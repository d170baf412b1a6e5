"""The page of a segmentation: class table, confusion in shares, worst images with their legend."""

import numpy as np
import pytest

from reslab.data.masks import VOID
from reslab.report.pages.run import RunPage
from reslab.report.pages.segmentation import SegmentationResults, SegmentedImage
from reslab.report.render import render_page

CONFUSION = ((90, 10, 0), (5, 15, 0), (0, 0, 0))
METRICS = {"miou": 0.676, "pixel_accuracy": 0.875, "loss": 0.4, "num_samples": 2, "split": "val"}


def results() -> SegmentationResults:
    masks = np.zeros((2, 30, 40), dtype=np.uint8)
    masks[0, :10], masks[1, :5] = 1, VOID
    image = np.full((60, 80, 3), 90, dtype=np.uint8)
    worst = (SegmentedImage(image, masks[0], masks[1], 0.25, "a<b>.png"),)
    return SegmentationResults(classes=("ground", "cell", "rim"), confusion_matrix=CONFUSION, worst=worst)


def test_the_context_has_the_metrics_of_the_confusion_matrix() -> None:
    context = results().context(METRICS)
    rows = context["iou_rows"]
    assert [row["iou"] for row in rows] == ["85.7 %", "50.0 %", "–"]
    assert [row["dice"] for row in rows] == ["92.3 %", "66.7 %", "–"]
    assert [row["accuracy"] for row in rows] == ["90.0 %", "75.0 %", "–"]
    assert [row["share"] for row in rows] == ["83.3 %", "16.7 %", "0.0 %"]
    assert context["iou_mean"] == {"iou": "67.9 %", "dice": "79.5 %", "accuracy": "82.5 %", "num_pixels": "120"}
    assert [cell["text"] for cell in context["confusion"]["rows"][0]["cells"]] == ["90.0 %", "10.0 %", "0.0 %"]
    assert context["confused_pairs"][0]["times"] == "10 pixels"
    assert [item["name"] for item in context["worst_legend"]] == ["ground", "cell"]
    assert context["worst_has_void"]


def test_the_page_shows_the_three_images_and_the_legend() -> None:
    page = render_page(RunPage(title="cells", metrics=METRICS, results=results()))
    assert page.count("<img ") == 3
    assert "a&lt;b&gt;.png: predicted" in page
    assert "mean IoU 25.0 %" in page
    assert "void: does not count" in page
    assert "Mean IoU 67.60 % on 2 validation images." in page
    assert [anchor in page for anchor in ('id="worst"', 'id="classes"', 'id="confusion"')] == [True] * 3


def test_a_matrix_that_does_not_fit_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="confusion"):
        SegmentationResults(classes=("ground", "cell"), confusion_matrix=CONFUSION).context(METRICS)
