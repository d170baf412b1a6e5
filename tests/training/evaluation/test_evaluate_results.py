"""Files of detections: evaluated alone they give the numbers of the network that wrote them; mistakes are errors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from reslab.data.segments import RunLengths
from reslab.metrics.coco import evaluate_coco_json
from reslab.training.evaluation import prediction_files
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.evaluation.evaluate_results import evaluate_results
from reslab.training.evaluation.prediction_files import read_results, save_predictions
from reslab.training.tasks.detection import DetectionEvaluation

sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
from box_files import CLASSES, OBJECTS, VAL, write_coco, write_voc, write_yolo

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


class NoisyDetector(nn.Module):
    """Finds rectangles near the bright ones of `box_files`, others too, with scores of many digits, and masks."""

    with_masks = False

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.detect(image) for image in images]

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        (known,) = [i for i in VAL if image.shape[1:] == torch.Size(((44, 60), (40, 50))[i - VAL[0]])]
        generator = torch.Generator().manual_seed(known)
        boxes = torch.tensor([box for _, box in OBJECTS[known]], dtype=torch.float32).repeat(3, 1)
        boxes += torch.randn(boxes.shape, generator=generator) * torch.tensor([0.3, 1, 3]).repeat_interleave(
            len(boxes) // 3
        ).unsqueeze(1)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = torch.tensor([1 + CLASSES.index(name) for name, _ in OBJECTS[known]]).repeat(3)
        scores = torch.rand(len(boxes), generator=generator)
        masks = torch.zeros(len(boxes), 1, height, width)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().long().clamp(0).tolist(), strict=True):
            mask[0, y1:y2, x1:x2] = 1
        result = {"boxes": boxes, "labels": labels, "scores": scores}
        return {**result, "masks": masks} if self.with_masks else result


class NoisyMaskDetector(NoisyDetector, MaskRCNN):
    """The same with masks, by its class a network that predicts some."""

    with_masks = True


def written(data: Path, path: Path, with_masks: bool = False) -> DetectionEvaluation:
    """Evaluate the detector on the data, and save its detections."""
    detector = NoisyMaskDetector() if with_masks else NoisyDetector()
    evaluation = evaluate(detector, data, keep_predictions=True, device="cpu", workers=0, task="detection")
    save_predictions(path, evaluation)
    return evaluation


def assert_same(result: DetectionEvaluation, expected: DetectionEvaluation) -> None:
    assert result.to_dict() == expected.to_dict()
    assert repr(result.per_class()) == repr(expected.per_class())
    assert (result.split, result.names, result.classes) == (expected.split, expected.names, expected.classes)
    for ours, other in zip(result.predictions, expected.predictions, strict=True):
        for name in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(ours, name), getattr(other, name))


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_the_numbers_are_those_of_the_network(tmp_path: Path, layout: str, ending: str) -> None:
    data = WRITERS[layout](tmp_path / "data")
    expected = written(data, tmp_path / f"boxes{ending}")
    assert 0 < (expected.ap or 0) < 1
    assert_same(evaluate_results(tmp_path / f"boxes{ending}", data), expected)


def test_masks_count_too(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    expected = written(data, tmp_path / "boxes.json", with_masks=True)
    assert 0 < (expected.mask_ap or 0) < 1
    evaluation = evaluate_results(tmp_path / "boxes.json", data)
    assert_same(evaluation, expected)
    results = json.loads((tmp_path / "boxes.json").read_text())
    for result in results:
        del result["bbox"]
    without_boxes = tmp_path / "masks.json"
    without_boxes.write_text(json.dumps(results))
    assert evaluate_results(without_boxes, data).mask_ap == expected.mask_ap


def test_run_lengths_as_a_list_are_those_of_the_text(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    expected = written(data, tmp_path / "boxes.json", with_masks=True)
    results = json.loads((tmp_path / "boxes.json").read_text())
    for result in results:
        mask = result["segmentation"]
        mask["counts"] = RunLengths(mask["counts"].encode(), *mask["size"]).runs(*mask["size"])
    (tmp_path / "lists.json").write_text(json.dumps(results))
    assert_same(evaluate_results(tmp_path / "lists.json", data), expected)


def test_annotations_need_no_images_and_agree_with_coco_s_own_evaluation(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    expected = written(data, tmp_path / "boxes.json")
    annotations = tmp_path / "instances_val.json"
    annotations.write_bytes((data / "annotations" / "instances_val2017.json").read_bytes())
    evaluation = evaluate_results(tmp_path / "boxes.json", annotations)
    assert evaluation.to_dict() == expected.to_dict()
    assert (evaluation.split, evaluation.dataset is not None and evaluation.dataset.preview(0).shape) == (
        "val",
        (3, 44, 60),
    )
    coco = evaluate_coco_json(json.loads(annotations.read_text()), json.loads((tmp_path / "boxes.json").read_text()))
    for name in ("ap", "ap50", "ap75", "ar100"):
        assert getattr(evaluation.coco, name) == getattr(coco, name)
    present = evaluate_results(tmp_path / "boxes.json", data / "annotations" / "instances_val2017.json")
    assert present.dataset is not None
    assert expected.dataset is not None
    assert torch.equal(present.dataset.preview(1), expected.dataset.preview(1))


def write_voc_results(folder: Path, evaluation: DetectionEvaluation, **texts: str) -> Path:
    """VOC's files, whose boxes count pixels from 1 and include both ends."""
    folder.mkdir()
    for label, name in enumerate(CLASSES):
        lines = [
            f"{Path(image).stem} {score:.9f} {x1 + 1:.6f} {y1 + 1:.6f} {x2:.6f} {y2:.6f}\n"
            for image, prediction in zip(evaluation.names, evaluation.predictions, strict=True)
            for (x1, y1, x2, y2), score, its_label in zip(
                prediction.boxes.tolist(), prediction.scores.tolist(), prediction.labels.tolist(), strict=True
            )
            if its_label == label
        ]
        (folder / f"comp4_det_val_{name}.txt").write_text("".join(lines))
    return folder


def test_voc_s_files_give_the_numbers_within_their_digits(tmp_path: Path) -> None:
    data = write_voc(tmp_path / "data")
    expected = written(data, tmp_path / "boxes.json")
    result = evaluate_results(write_voc_results(tmp_path / "results", expected), data)
    assert result.voc_map == pytest.approx(expected.voc_map)
    assert result.ap == pytest.approx(expected.ap)
    for label in range(len(CLASSES)):
        boxes = [
            torch.cat([one.boxes[one.labels == label] for one in evaluation.predictions])
            for evaluation in (result, expected)
        ]
        torch.testing.assert_close(boxes[0], boxes[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: Path(name).name,
        lambda name: Path(name).stem,
        lambda name: f"elsewhere\\images\\{Path(name).stem}.jpeg",
        lambda name: int(Path(name).stem),
    ],
)
def test_images_are_matched_by_name(tmp_path: Path, rename: Callable[[str], Any]) -> None:
    data = write_voc(tmp_path / "data")
    expected = written(data, tmp_path / "boxes.json")
    results = json.loads((tmp_path / "boxes.json").read_text())
    renamed = [{**result, "image_id": rename(result["image_id"])} for result in results]
    (tmp_path / "boxes.json").write_text(json.dumps(renamed))
    assert_same(evaluate_results(tmp_path / "boxes.json", data), expected)


def test_an_empty_list_has_nothing_detected(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    evaluation = evaluate_results(tmp_path / "none.json", write_voc(tmp_path / "data"))
    assert (evaluation.ap, evaluation.voc_map, evaluation.num_samples) == (0, 0, 2)


RESULT = {"image_id": 104, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
MASK = {"size": [44, 60], "counts": [44 * 60]}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([RESULT, {**RESULT, "image_id": 9}, {**RESULT, "image_id": 9}],
         r"of the 2 val images of data; got: 2 of 3 results of 1 other images, the first 9 \(boxes.json, result 1\)"),
        ([{**RESULT, "image_id": 100}], "images of the split train are among them"),
        ([{**RESULT, "category_id": 4}], "3 categories of the data; got: 1 of 1 of 1 others, the first 4.*: 3, 7, 11"),
        ([{**RESULT, "category_id": "cat"}], "an integer as the category_id of boxes.json, result 0; got: 'cat'"),
        ([{**RESULT, "image_id": None}], "an integer or a name as the image_id of boxes.json, result 0"),
        ([{**RESULT, "score": float("nan")}], "a finite score in boxes.json, result 0; got: nan"),
        ([{**RESULT, "score": "0.5"}], "a number as score of boxes.json, result 0; got: '0.5'"),
        ([RESULT, {"image_id": 104, "category_id": 3, "bbox": [1, 2, 3, 4]}], "result 1; got: no score"),
        ([{**RESULT, "bbox": [1, 2, float("nan"), 4]}], "a box of finite numbers in boxes.json, result 0"),
        ([{**RESULT, "bbox": [1, 2, -3, 4]}], "width and height of at least 0 in boxes.json, result 0"),
        ([{**RESULT, "bbox": [1, 2, 3]}], "4 numbers as the bbox of boxes.json, result 0"),
        ([7], "image_id, category_id, score, bbox in boxes.json, result 0; got: 7"),
        ({"annotations": []}, "a list of results.*got: a dict; this is a file of annotations: pass it as the data"),
        ([RESULT, {**RESULT, "segmentation": MASK}], "of every result.*1 of 2 without, the first boxes.json, result 0"),
        ([{**RESULT, "segmentation": {"size": [44, 60], "counts": [3]}}], "result 0: required: runs of 2640 pixels"),
        ([{**RESULT, "segmentation": [[1, 2, 3, 4, 5, 6]]}], "run-length encoding, .* in boxes.json, result 0"),
        ([{**RESULT, "segmentation": {"size": [2, 2], "counts": [4]}}], "the size of its image, 44x60, in boxes.json"),
    ],
)  # fmt: skip
def test_wrong_results_are_errors_with_their_position(tmp_path: Path, results: Any, message: str) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        evaluate_results(tmp_path / "boxes.json", write_coco(tmp_path / "data"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("boxes.json", "[{", "boxes.json: not valid JSON"),
        ("boxes.json", "[" * 100_000, "boxes.json: not valid JSON"),
        ("boxes.txt", "", "detections in COCO's JSON .* nearest valid: boxes.json"),
        ("boxes.csv", "name,class,x1,y1,x2,y2\n", "the columns name, class, score, .*no score"),
        ("boxes.csv", "name,class,score,x1,y1,x2,y2\na,cat,0.5,1,2,x,4\n", "as x2 of boxes.csv, line 2; got: 'x'"),
        ("boxes.csv", "name,class,score,x1,y1,x2,y2\n,cat,0.5,1,2,3,4\n", "an image and a class in boxes.csv, line 2"),
    ],
)  # fmt: skip
def test_broken_files_are_errors(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / name)


def test_csv_has_images_without_detections_and_formulas_back(tmp_path: Path) -> None:
    lines = ["path,rank,class,score,x1,y1,x2,y2,error", "a.png,,,,,,,,", "'=b.png,1,'-cat,0.5,1,2,3,4,"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    (row,) = read_results(tmp_path / "boxes.csv").rows
    assert (row.image, row.category, row.score, row.box) == ("=b.png", "-cat", 0.5, (1, 2, 3, 4))


def test_a_folder_of_voc_is_complete_or_an_error(tmp_path: Path) -> None:
    data, folder = write_voc(tmp_path / "data"), tmp_path / "results"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"comp4_det_test_CLASS\.txt; got: no such file"):
        evaluate_results(folder, data)
    for name in CLASSES[:2]:
        (folder / f"comp3_det_test_{name}.txt").write_text("04 0.5 1 1 20 20\n")
    with pytest.raises(ValueError, match=r"3 classes .*none of hen; write an empty comp4_det_test_hen\.txt"):
        evaluate_results(folder, data)
    (folder / "comp3_det_test_hen.txt").write_text("04 0.5 1 1 20\n")
    with pytest.raises(ValueError, match=r"image, score, xmin, ymin, xmax, ymax in comp3_det_test_hen\.txt, line 1"):
        evaluate_results(folder, data)


def test_too_large_a_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_files, "MAX_RESULT_BYTES", 1 << 20)
    with (tmp_path / "boxes.json").open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(ValueError, match=r"at most 1 MiB, as evaluating takes .*boxes\.json of 5 MiB; keep"):
        read_results(tmp_path / "boxes.json")


def test_annotations_without_sizes_are_refused(tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a height and width of each image .*1 of 1 without, the first a\.jpg"):
        evaluate_results(tmp_path / "none.json", tmp_path / "val.json")
