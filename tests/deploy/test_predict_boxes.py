"""`predict` with detectors: equal to their own outputs, in Python and in images with boxes drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from reslab.analysis.box_attribution import box_grad_cam
from reslab.deploy.inputs import UnchangedImageTransform
from reslab.deploy.predict import predict
from reslab.deploy.prediction import DetectedBox
from reslab.deploy.prediction_images import draw_box_grad_cam
from reslab.deploy.predictor import class_names, detected_boxes
from reslab.metrics.coco import mask_areas
from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import create_model
from reslab.report.images import box_color
from reslab.spec.preprocess import Preprocess
from reslab.training.tasks.detection import pair_targets
from tests.deploy.detectors import CLASSES, NAMES, PREPROCESS, build_detector


@pytest.fixture(scope="module")
def pixels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(70, 90), (64, 64), (70, 90), (40, 100)]
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def forward(network: DenseNetwork, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        result: dict[str, Tensor] = network([image / 255])[0]
    objects = result["labels"] > 0  # RetinaNet may find the background
    return {name: values[objects] for name, values in result.items()}


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_those_of_the_detector(name: str, pixels: list[Tensor]) -> None:
    network = build_detector(name)
    for image, row in zip(pixels, predict(network, pixels), strict=True):
        expected = forward(network, image)
        assert row.boxes is not None
        assert len(row.boxes) == len(expected["scores"])
        # Of a batch, numbers round differently, and equal scores may change places.
        scores = torch.tensor([box.score for box in row.boxes])
        assert torch.allclose(scores, expected["scores"], atol=1e-5)
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        reference = [
            (CLASSES[int(label) - 1], *box.tolist())
            for label, box in zip(expected["labels"], expected["boxes"], strict=True)
        ]
        for box in row.boxes:
            distances = [
                max(abs(a - b) for a, b in zip(box.box, corners, strict=True))
                for label, *corners in reference
                if label == box.name
            ]
            assert min(distances) < 1e-2
    assert any(row.boxes for row in predict(network, pixels))


def test_a_result_does_not_depend_on_its_batch(pixels: list[Tensor]) -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320")
    together = predict(network, pixels)
    for alone, row in zip([predict(network, image)[0] for image in pixels], together, strict=True):
        assert alone.boxes is not None
        assert row.boxes is not None
        assert [box.score for box in alone.boxes] == pytest.approx([box.score for box in row.boxes], abs=1e-5)


def test_masks_are_those_of_mask_rcnn(pixels: list[Tensor]) -> None:
    network = build_detector("maskrcnn_resnet18_fpn_320")
    with torch.no_grad():
        network.get_submodule("roi_heads.mask_predictor.mask_fcn_logits").bias.fill_(20.0)  # type: ignore[union-attr, operator]
    expected = forward(network, pixels[0])
    (row,) = predict(network, pixels[0])
    assert row.boxes is not None
    order = expected["scores"].argsort(descending=True, stable=True)
    assert sum(int(box.mask.sum()) for box in row.boxes if box.mask is not None) > 40
    for box, mask in zip(row.boxes, expected["masks"][order], strict=True):
        assert box.mask is not None
        assert torch.equal(box.mask, mask[0] > 0.5)
        entry = box.to_dict()
        assert entry["segmentation"]["size"] == [70, 90]
        again = DetectedBox.from_dict(entry)
        assert again == box
        assert again.mask is not None
        assert torch.equal(again.mask, box.mask)


def test_a_score_and_a_number_limit_the_boxes(pixels: list[Tensor]) -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320")
    (row,) = predict(network, pixels[1])
    assert row.boxes is not None
    assert min(box.score for box in row.boxes) < 0.5 < max(box.score for box in row.boxes)
    (high,) = predict(network, pixels[1], min_score=0.5)
    assert high.boxes == tuple(box for box in row.boxes if box.score >= 0.5)
    assert predict(network, pixels[1], top_k=2)[0].boxes == row.boxes[:2]
    assert high.to_dict() == {
        "path": "#0",
        "boxes": [{"name": box.name, "score": box.score, "box": list(box.box)} for box in high.boxes],
    }


def test_boxes_are_drawn_from_a_score_of_one_half(pixels: list[Tensor], tmp_path: Path) -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320")
    black = torch.zeros(3, 200, 300, dtype=torch.uint8)
    drawn = {}
    for min_score in (None, 0.05, 1.0):
        (row,) = predict(network, black, boxes_dir=tmp_path / str(min_score), min_score=min_score)
        assert row.overlay_path == str(tmp_path / str(min_score) / "#0_boxes.png")
        with Image.open(row.overlay_path) as image:
            drawn[min_score] = np.array(image)
        assert drawn[min_score].shape == (200, 300, 3)
    assert not drawn[1.0].any()
    (row,) = predict(network, black)
    assert row.boxes is not None
    colors = {name: tuple(box_color(CLASSES.index(name))) for name in CLASSES}
    for min_score, limit in ((None, 0.5), (0.05, 0.05)):
        shown = {tuple(color) for color in drawn[min_score].reshape(-1, 3).tolist()}
        assert {colors[box.name] for box in row.boxes if box.score >= limit} <= shown
    (masked,) = predict(build_detector("maskrcnn_resnet18_fpn_320"), black, boxes_dir=tmp_path / "masks")
    assert Path(masked.overlay_path).is_file()


def test_grad_cam_of_the_best_box_of_a_class(pixels: list[Tensor], tmp_path: Path) -> None:
    network = build_detector(NAMES[0])
    labels = network([pixels[0] / 255])[0]["labels"].tolist()
    label = next(label for label in labels if label not in (0, labels[0]))
    name = CLASSES[label - 1]
    (row,) = predict(network, pixels[0], grad_cam_dir=tmp_path / "maps", grad_cam_class=name)
    expected = box_grad_cam(network, pixels[0] / 255, labels.index(label))
    with Image.open(row.grad_cam) as drawn:
        assert np.array_equal(np.array(drawn), np.array(draw_box_grad_cam(pixels[0], expected.heatmap, expected.box)))
    network.score_thresh = 1.0
    (empty,) = predict(network, pixels[0], grad_cam_dir=tmp_path / "maps")
    assert empty.grad_cam == ""


def test_images_that_a_detector_cannot_take(pixels: list[Tensor], tmp_path: Path) -> None:
    network = build_detector("retinanet_resnet18_fpn_320")
    strip = torch.zeros(3, 1, 97, dtype=torch.uint8)  # 96 pixels wide, it would have no row
    first, second, third = predict(network, [strip, strip[..., :96], tmp_path / "none.png"])
    assert "97x1" in first.error
    assert "96 times" in first.error
    assert second.boxes is not None
    assert not second.error
    assert third.to_dict() == {"path": third.path, "boxes": [], "error": "no such file"}


def test_a_diverged_detector_is_an_error_not_an_image_without_objects(pixels: list[Tensor]) -> None:
    network = build_detector("retinanet_resnet18_fpn_320")
    next(network.parameters()).data.fill_(float("nan"))
    (row,) = predict(network, pixels[0])
    assert "not finite" in row.error
    assert row.boxes == ()


def test_options_without_a_meaning_for_the_task(pixels: list[Tensor], tmp_path: Path) -> None:
    detector = build_detector("retinanet_resnet18_fpn_320")
    classifier = create_model("resnet20_cifar", num_classes=3, image_size=(16, 16), depths=(1, 1, 1))
    assert isinstance(classifier, nn.Module)
    classifier.set_metadata(classes=CLASSES, preprocess=PREPROCESS)  # type: ignore[operator]
    for options, message in (
        ({"boxes_dir": tmp_path / "boxes"}, "required: a network for detection"),
        ({"min_score": 0.5}, "required: a network for detection"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(classifier, pixels, **options)
    for options, message in (
        ({"masks_dir": tmp_path}, "a network for segmentation"),
        ({"embeddings": True}, "embeddings"),
        ({"precision": "bf16"}, "required: float32 for a detector; got: bf16"),
        ({"backend": "openvino"}, "nearest valid: torch"),
        ({"min_score": 1.5}, "min_score from 0 to 1; got: 1.5; nearest valid: 1"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(detector, pixels, **options)
    with pytest.raises(ValueError, match="without a transform"):
        UnchangedImageTransform(Preprocess(3, "resize(40)", (0.0,) * 3, (1.0,) * 3))


def test_retinanet_finds_no_background(pixels: list[Tensor]) -> None:
    network = build_detector("retinanet_resnet18_fpn_320")
    with torch.no_grad():
        labels = network([pixels[0] / 255])[0]["labels"]
    assert 0 in labels.tolist()
    (row,) = predict(network, pixels[0])
    assert row.boxes is not None
    assert len(row.boxes) == int((labels > 0).sum()) > 0


def test_a_detector_without_names_has_no_background_among_its_classes(pixels: list[Tensor]) -> None:
    network = build_detector("fasterrcnn_resnet18_fpn_320")
    network.classes = None
    assert class_names(network) == ("class 0", "class 1", "class 2")
    (row,) = predict(network, pixels[1])
    assert row.boxes is not None
    assert {box.name for box in row.boxes} <= set(class_names(network))


def test_a_pixel_at_the_threshold_is_outside_of_the_mask_in_prediction_and_evaluation() -> None:
    result = {
        "boxes": torch.tensor([[0.0, 0.0, 3.0, 1.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
        "masks": torch.tensor([[[[0.4, 0.5, 0.6]]]]),
    }
    (box,) = detected_boxes(result, CLASSES)
    flags = torch.zeros(1, dtype=torch.bool)
    target = {**result, "image_id": 1, "crowd": flags, "difficult": flags, "area": torch.ones(1)}
    target["masks"] = torch.ones(1, 1, 3)
    ((_, prediction),) = pair_targets([result], [target])
    assert prediction.masks is not None
    assert box.mask is not None
    assert box.mask.tolist() == [[False, False, True]]
    assert mask_areas(prediction.masks) == [1.0]
