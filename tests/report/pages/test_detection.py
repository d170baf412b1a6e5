"""The page of a detection: its numbers are those of the metrics, and its boxes lie where they are."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from page_reader import assert_sound

from reslab.metrics.coco import CocoResult, coco_average_precision
from reslab.metrics.detection import DetectionPrediction, DetectionTarget, Outcome
from reslab.metrics.voc_ap import Interpolation, voc_average_precision
from reslab.report.format import format_percent
from reslab.report.pages.detected_images import (
    CORRECT_COLOR,
    IMAGE_SIDE,
    MISSED_COLOR,
    WRONG_COLOR,
    BoxImage,
    draw_outcomes,
)
from reslab.report.pages.detection import DetectionResults
from reslab.report.pages.run import RunPage
from reslab.report.render import render_page

CLASSES = ("cat", "a<b>")
SIZES = {1: (200, 300), 2: (90, 60), 3: (400, 400)}  # height and width of each image
Boxes = list[tuple[float, float, float, float]]


def target(image_id: int, boxes: Boxes, labels: list[int], crowd: list[bool] | None = None) -> DetectionTarget:
    flags = None if crowd is None else torch.tensor(crowd)
    return DetectionTarget(image_id, torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels).long(), flags)


def predicted(image_id: int, boxes: Boxes, labels: list[int], scores: list[float]) -> DetectionPrediction:
    numbers = torch.tensor(labels).long()
    return DetectionPrediction(image_id, torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), numbers)


# Image 1: one found, one missed. Image 2: a wrong class and a false one. Image 3: found, duplicate, crowd.
TARGETS = (
    target(3, [(10, 10, 210, 210), (300, 300, 390, 390)], [0, 0], [False, True]),
    target(1, [(20, 20, 120, 120), (150, 60, 170, 80)], [0, 1]),
    target(2, [(5, 5, 45, 75)], [1]),
)
PREDICTIONS = (
    predicted(3, [(10, 10, 210, 205), (12, 10, 210, 210), (310, 310, 350, 350)], [0, 0, 0], [0.9, 0.8, 0.95]),
    predicted(1, [(22, 20, 120, 118), (0, 0, 5, 5)], [0, 1], [0.875, 0.05]),
    predicted(2, [(5, 5, 45, 74), (50, 80, 58, 88)], [0, 1], [0.7, 0.65]),
)


def load_image(i: int) -> BoxImage:
    height, width = SIZES[int(TARGETS[i].image_id)]
    return BoxImage(np.full((height, width, 3), 128, dtype=np.uint8), f"image<{TARGETS[i].image_id}>.png")


def build(
    targets: tuple[DetectionTarget, ...] = TARGETS,
    predictions: tuple[DetectionPrediction, ...] = PREDICTIONS,
    classes: tuple[str, ...] = CLASSES,
    min_score: float | None = 0.5,
    with_masks: bool = False,
) -> DetectionResults:
    coco = coco_average_precision(targets, predictions, len(classes))
    voc = voc_average_precision(targets, predictions, len(classes))
    masks = coco if with_masks else None
    return DetectionResults.build(
        targets, predictions, classes, coco=coco, voc=voc, load_image=load_image, masks=masks, min_score=min_score
    )


def render(results: DetectionResults, num_images: int = 3) -> str:
    assert results.coco is not None
    assert results.voc is not None
    values = {"ap": results.coco.ap, "ap50": results.coco.ap50, "ap75": results.coco.ap75}
    metrics = {**values, "voc_map": results.voc.mean_ap, "loss": None, "num_samples": num_images, "split": "val"}
    defined = {name: None if value is not None and value != value else value for name, value in metrics.items()}
    return render_page(RunPage(title="detector", metrics=defined, results=results))


def test_the_tables_have_the_numbers_of_the_metrics() -> None:
    results = build()
    context = results.context({})
    coco = results.coco
    assert coco is not None
    names = [field.name for field in fields(CocoResult)][:12]
    assert [row["value"] for row in context["coco_rows"]] == [format_percent(getattr(coco, name), 1) for name in names]
    assert [row["objects"] for row in context["coco_rows"]][2:6] == ["all, 4", "small, 1", "medium, 1", "large, 2"]
    assert [row["detections"] for row in context["coco_rows"]][6:9] == [1, 10, 100]
    eleven = voc_average_precision(TARGETS, PREDICTIONS, 2, interpolation=Interpolation.ELEVEN_POINT)
    assert results.voc is not None
    voc = [format_percent(value, 1) for value in (results.voc.mean_ap, eleven.mean_ap)]
    assert [item["value"] for item in context["voc_tiles"]] == voc
    rows = context["class_rows"]
    assert [row["name"] for row in rows] == list(CLASSES)
    assert [row["num_objects"] for row in rows] == ["2", "2"]
    assert [row["value"] for row in rows] == [format_percent(ap, 1) for ap in coco.class_ap]
    assert [row["ap50"] for row in rows] == [format_percent(ap, 1) for ap in coco.class_ap50]
    assert format_percent(float(np.nanmean(coco.class_precision[:, 5])), 1) == context["class_mean"]["ap75"]
    assert context["weakest_rows"] == []


def test_the_errors_are_counted_from_the_score_on() -> None:
    results = build()
    assert results.errors is not None
    counted = {outcome: count for outcome, count in results.errors.outcomes.items() if count}
    expected = {Outcome.CORRECT: 2, Outcome.CLASS: 1, Outcome.DUPLICATE: 1, Outcome.BACKGROUND: 1, Outcome.IGNORED: 1}
    assert counted == {**expected, Outcome.MISSED: 1}
    context = results.context({})
    assert {row["name"]: row["count"] for row in context["error_rows"]} == {
        "localization": "0", "class": "1", "both": "0", "duplicate": "1", "background": "1", "missed": "1",
    }  # fmt: skip
    assert [tile["value"] for tile in context["error_tiles"]] == ["40.0 %", "50.0 %", "44.4 %"]
    assert context["error_tiles"][0]["notes"] == ["2 of 5 predictions correct"]
    assert context["error_text"] == (
        "Predictions with a score of at least 0.50, at IoU 0.5. 1 on crowds and difficult objects do not count."
    )
    assert results.errors.confusion == [[2, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert [pair["predicted_class"] for pair in context["confused_pairs"]] == ["cat"]


def test_by_default_the_score_is_that_of_the_highest_f1() -> None:
    results = build(min_score=None)
    assert results.errors is not None
    assert results.errors.is_best_f1
    assert results.errors.min_score == pytest.approx(0.875)
    assert "from which on F1 is highest" in results.context({})["error_text"]


def test_the_worst_images_come_first_and_perfect_ones_not_at_all() -> None:
    results = build()
    assert [image.target.image_id for image in results.worst] == [2, 3, 1]
    items = results.context({})["worst_images"]
    assert [item["f1"] for item in items] == ["0.0 %", "66.7 %", "66.7 %"]
    assert [item["errors"] for item in items] == [
        "0 of 1 object found; wrong: 1 class, 1 background",
        "1 of 1 object found; wrong: 1 duplicate",
        "1 of 2 objects found",
    ]
    assert [image.target.image_id for image in build(TARGETS, PREDICTIONS[:1], min_score=0.85).worst] == [1, 2]
    names = [item["name"] for item in results.context({})["box_legend"]]
    assert names == [
        "crowd or difficult: does not count",
        "object, found",
        "correct prediction",
        "wrong prediction",
        "object, not found",
    ]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_boxes_are_drawn_where_they_are(scale: float) -> None:
    image = build().worst[2]
    height, width = (round(side * scale) for side in SIZES[1])
    shown = BoxImage(np.full((height, width), 128, dtype=np.uint8), scale=scale)
    drawn = np.asarray(draw_outcomes(type(image)(shown, image.target, image.prediction, image.outcomes), CLASSES))
    factor = IMAGE_SIDE / SIZES[1][1]
    assert drawn.shape == (round(SIZES[1][0] * factor), IMAGE_SIDE, 3)
    for color, box in ((CORRECT_COLOR, (22, 20, 120, 118)), (MISSED_COLOR, (150, 60, 170, 80))):
        rows, columns = (drawn == color).all(2).nonzero()
        assert abs(rows.max() - box[3] * factor) < 6
        assert abs(columns.min() - box[0] * factor) < 6
    assert not (drawn == WRONG_COLOR).all(2).any()


def test_the_page_is_valid_html_and_describes_its_content() -> None:
    results = build()
    html = render(results)
    page = assert_sound(html)
    assert results.coco is not None
    assert html == render(build())
    assert page.text.count("loss") == 0
    assert f"COCO AP {100 * results.coco.ap:.1f} % on 3 validation images with 4 objects." in page.text
    assert "image<2>.png with boxes: 0 of 1 object found" in page.values("alt")[0]
    assert "Last row: predictions where no object is. Last column: objects not found." in page.text
    labels = page.values("aria-label")
    assert any("Precision against recall of 2 classes" in label for label in labels)
    sections = ["precision", "errors", "worst", "classes", "curves", "confusion"]
    assert [anchor for anchor in page.values("id") if anchor in sections] == sections


def test_masks_have_their_own_column() -> None:
    assert "mask AP" not in assert_sound(render(build())).text
    page = assert_sound(render(build(with_masks=True)))
    assert "mask AP" in page.text
    assert "COCO's metrics of boxes and of masks" in page.text


def test_without_predictions_all_objects_are_missed() -> None:
    results = build(predictions=(), min_score=None)
    assert results.errors is not None
    assert (results.errors.min_score, results.errors.is_best_f1) == (0.5, False)
    assert results.errors.outcomes[Outcome.MISSED] == 4
    page = assert_sound(render(results))
    assert "COCO AP 0.0 % on 3 validation images with 4 objects." in page.text
    assert "precision – no prediction recall 0.0 % 0 of 4 objects found" in page.text
    assert [tile["value"] for tile in results.context({})["error_tiles"]] == ["–", "0.0 %", "0.0 %"]


def test_without_objects_there_is_no_average_precision() -> None:
    targets = (target(1, [], []), target(2, [], []))
    for predictions, num_wrong in (((), 0), ((predicted(2, [(5, 5, 20, 20)], [0], [0.9]),), 1)):
        results = build(targets, predictions)
        assert results.coco is not None
        assert math.isnan(results.coco.ap)
        page = assert_sound(render(results, num_images=2))
        assert "COCO AP – on 2 validation images with no object." in page.text
        assert len(results.worst) == num_wrong
        assert ("no object; wrong: 1 background" in page.text) == bool(num_wrong)
        context = results.context({})
        assert context["curve_panels"] == []
        assert {row["value"] for row in context["coco_rows"]} == {"–"}


def test_results_that_were_not_built_have_no_section() -> None:
    context = DetectionResults().context({})
    assert not any(context[key] for _, key, _ in DetectionResults.sections)
    assert_sound(render_page(RunPage("bare", results=DetectionResults())))


def test_one_class_has_one_plot() -> None:
    targets = (target(1, [(20, 20, 120, 120)], [0]),)
    results = build(targets, (predicted(1, [(20, 20, 120, 120)], [0], [0.75]),), ("cell",))
    assert len(results.context({})["curve_panels"]) == 1
    page = assert_sound(render(results, num_images=1))
    assert "cell: the highest precision" in page.text
    assert "100.0 %" in page.text
    assert "Worst images" not in page.text


def test_of_many_classes_the_weakest_are_shown() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (90, 2))
    boxes = [(float(x), float(y), float(x) + 40, float(y) + 40) for x, y in corners]
    labels = [i % 75 for i in range(90)]
    targets = (target(1, boxes, labels), target(3, [], []))
    scores = rng.uniform(0.1, 1, 60).tolist()
    results = build(targets, (predicted(1, boxes[:60], labels[:60], scores),), tuple(f"class {i}" for i in range(80)))
    context = results.context({})
    assert results.coco is not None
    assert len(context["class_rows"]) == 80
    lowest = sorted(ap for ap in results.coco.class_ap if not math.isnan(ap))[:10]
    assert [row["value"] for row in context["weakest_rows"]] == [format_percent(ap, 1) for ap in lowest]
    assert context["class_rows"][79]["value"] == "–"
    page = assert_sound(render(results, num_images=2))
    assert "All 80 classes" in page.text
    assert "(number 80)" in page.text
    assert any("recall of 12 classes" in label for label in page.values("aria-label"))


def test_a_target_without_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match="a target for the image of each prediction"):
        DetectionResults.build(
            TARGETS[:1],
            PREDICTIONS,
            CLASSES,
            coco=coco_average_precision(TARGETS, PREDICTIONS, 2),
            voc=voc_average_precision(TARGETS, PREDICTIONS, 2),
            load_image=load_image,
        )
