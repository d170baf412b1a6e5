"""Files of boxes: JSON, CSV and Parquet as written; the results of COCO and PASCAL VOC as their tools read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from reslab.data.segments import encode_mask
from reslab.deploy.inputs import InputItem
from reslab.deploy.outputs import PredictionFile, check_output_format, check_output_path
from reslab.deploy.prediction import DetectedBox, Prediction, prediction_from_dict
from reslab.deploy.prediction_formats import PREDICTION_FORMATS, ResultIds
from reslab.metrics.coco import OverlapKind, evaluate_coco_json
from reslab.spec.task import find_task

ROWS = [
    Prediction(
        "a/7.png", boxes=(DetectedBox("cat", 0.75, (1.5, 2.0, 11.5, 22.0)), DetectedBox("=ant", 0.25, (0, 0, 5, 4)))
    ),
    Prediction("a/9.png", boxes=()),
    Prediction("a/10.png", boxes=(DetectedBox("cat", 0.5, (3.0, 4.0, 8.0, 9.0)),), overlay_path="drawn/10_boxes.png"),
    Prediction("a/11.png", error="broken", boxes=()),
]
CLASSES = ("=ant", "bee", "cat")


def write(path: Path, rows: list[Prediction], ids: ResultIds | None = None) -> Path:
    file = PredictionFile(path, [InputItem(row.path) for row in rows], {}, ids=ids)
    for row in rows:
        file.add(row)
    assert file.finish() == rows
    return path


@pytest.mark.parametrize("ending", PREDICTION_FORMATS)
def test_files_are_read_as_written(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"out{ending}", ROWS)
    assert PREDICTION_FORMATS[ending].read(path)[0] == ROWS
    assert [prediction_from_dict(json.loads(json.dumps(row.to_dict()))) for row in ROWS] == ROWS


def test_csv_has_a_line_for_each_box() -> None:
    lines = PREDICTION_FORMATS[".csv"].encode(ROWS, {}).decode().splitlines()
    assert lines[0] == "path,rank,class,score,x1,y1,x2,y2,error,overlay"
    assert lines[1:3] == ["a/7.png,1,cat,0.75,1.5,2,11.5,22,,", "a/7.png,2,'=ant,0.25,0,0,5,4,,"]
    assert lines[3] == "a/9.png,,,,,,,,,"
    assert lines[5] == "a/11.png,,,,,,,,broken,"


def coco_annotations(image_ids: list[int], category_ids: tuple[int, ...]) -> dict[str, Any]:
    boxes = [(0, 2, [1, 2, 10, 20]), (0, 0, [0, 0, 5, 5]), (2, 2, [3, 4, 5, 5]), (2, 1, [10, 10, 10, 10])]
    return {
        "images": [{"id": image_id, "height": 40, "width": 50} for image_id in image_ids],
        "categories": [{"id": number, "name": name} for number, name in zip(category_ids, CLASSES, strict=True)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image_ids[image],
                "category_id": category_ids[label],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for i, (image, label, box) in enumerate(boxes)
            if image < len(image_ids)
        ],
    }


def test_coco_results_are_evaluated_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ResultIds(CLASSES, (18, 3, 44), {"7.png": 700, "9.png": 900, "10.png": 1000, "11.png": 1100})
    path = write(tmp_path / "out.coco.json", ROWS, ids)
    results = json.loads(path.read_text())
    assert results[0] == {"image_id": 700, "category_id": 44, "bbox": [1.5, 2.0, 10.0, 20.0], "score": 0.75}
    annotations = coco_annotations([700, 900, 1000, 1100], (18, 3, 44))
    truth = COCO()
    truth.dataset = annotations
    truth.createIndex()
    reference = COCOeval(truth, truth.loadRes(str(path)), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert reference.stats[0] > 0.3
    assert evaluate_coco_json(annotations, results).ap == pytest.approx(reference.stats[0])


def test_masks_are_in_coco_results(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), bool)
    mask[4:9, 3:8] = True
    box = DetectedBox("cat", 0.5, (3.0, 4.0, 8.0, 9.0), encode_mask(mask))
    path = write(tmp_path / "out.coco.json", [Prediction("10.png", boxes=(box,))], ResultIds(CLASSES))
    results = json.loads(path.read_text())
    assert results[0]["image_id"] == 10
    annotations = coco_annotations([10], (1, 2, 3))
    annotations["annotations"] = [
        {
            "id": 1,
            "image_id": 10,
            "category_id": 3,
            "bbox": [3, 4, 5, 5],
            "segmentation": results[0]["segmentation"],
            "area": 25,
            "iscrowd": 0,
        }
    ]
    assert evaluate_coco_json(annotations, results, OverlapKind.MASKS).ap == pytest.approx(1.0)


def test_ids_without_data(tmp_path: Path) -> None:
    ids = ResultIds(CLASSES)
    assert [ids.category_id(name) for name in CLASSES] == [1, 2, 3]
    assert ids.of_images(["a/000000397133.jpg", "b/7.jpg"]) == [397133, 7]
    assert ids.of_images(["a/000000397133.jpg", "b/cat.jpg"]) == ["000000397133", "cat"]
    assert ids.of_images(["a/1.jpg", "b/1.jpg"]) == ["a_1.jpg", "b_1.jpg"]
    known = ResultIds(CLASSES, image_ids={"1.jpg": 5})
    assert known.of_images(["a/1.jpg"]) == [5]
    assert known.of_images(["a/1.jpg", "a/2.jpg"]) == [1, 2]  # not all are of the data
    assert known.of_images(["a/1.jpg", "b/1.jpg"]) == ["a_1.jpg", "b_1.jpg"]  # not both are image 5
    assert ids.of_images(["a/1.jpg", "b/001.jpg"]) == ["1", "001"]


def test_voc_results_count_pixels_from_one(tmp_path: Path) -> None:
    check_output_path(tmp_path / "out.voc", resume=False)
    folder = write(tmp_path / "out.voc", ROWS, ResultIds(CLASSES))
    assert sorted(file.name for file in folder.iterdir()) == [f"comp4_det_test_{name}.txt" for name in CLASSES]
    lines = (folder / "comp4_det_test_cat.txt").read_text().splitlines()
    assert lines == [
        "7 0.750000 2.500000 3.000000 11.500000 22.000000",
        "10 0.500000 4.000000 5.000000 8.000000 9.000000",
    ]
    assert (folder / "comp4_det_test_bee.txt").read_text() == ""
    # As the development kit reads them: of box 3 4 8 9, whose pixels are 4 to 8 and 5 to 9 from 1, 5 x 5 pixels.
    _, _, xmin, ymin, xmax, ymax = (float(value) for value in lines[1].split())
    assert (xmax - xmin + 1) * (ymax - ymin + 1) == 25
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("out.cooc.json", "out.coco.json"),
        ("out.coco.jsn", "out.coco.json"),
        ("out.vocs", "out.voc"),
        ("out.xml", "out.csv"),
        ("out", "out.csv"),
        ("out.jsn", "out.json"),
    ],
)
def test_unknown_formats_name_the_nearest(tmp_path: Path, name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"got: {name}; nearest valid: {nearest}$"):
        check_output_path(tmp_path / name, resume=False)


@pytest.mark.parametrize(
    ("name", "starts_with"),
    [
        ("out.v2.json", '{"'),
        ("out.coco.json", '[{"image_id"'),
        ("OUT.COCO.JSON", '[{"image_id"'),
        ("x.2020.csv", "path,"),
    ],
)
def test_names_with_several_endings_are_fine(tmp_path: Path, name: str, starts_with: str) -> None:
    check_output_path(tmp_path / name, resume=False)
    assert write(tmp_path / name, ROWS, ResultIds(CLASSES)).read_text().startswith(starts_with)


def test_formats_of_boxes_are_for_detectors(tmp_path: Path) -> None:
    check_output_format(tmp_path / "out.voc", find_task("detection"))
    check_output_format(tmp_path / "out.json", find_task("classification"))
    with pytest.raises(
        ValueError, match=r"for detection for out.voc; got: one for segmentation; nearest valid: out.json"
    ):
        check_output_format(tmp_path / "out.voc", find_task("segmentation"))


@pytest.mark.parametrize("name", ["out.coco.json", "out.voc"])
def test_interrupted_results_are_resumed_and_finished_ones_kept(tmp_path: Path, name: str) -> None:
    path, items = tmp_path / name, [InputItem(row.path) for row in ROWS]
    file = PredictionFile(path, items, {"top_k": 1}, ids=ResultIds(CLASSES))
    file.add(ROWS[0])
    resumed = PredictionFile(path, items, {"top_k": 1}, resume=True, ids=ResultIds(CLASSES))
    assert [item.path for item in resumed.remaining] == [row.path for row in ROWS[1:]]
    for row in ROWS[1:]:
        resumed.add(row)
    assert resumed.finish() == ROWS
    for resume in (False, True):
        with pytest.raises(ValueError, match="which exists; name another"):
            PredictionFile(path, items, {}, resume=resume)
