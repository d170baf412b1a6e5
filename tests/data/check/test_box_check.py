"""`check_data` of images with boxes: what is counted, and every box that cannot or should not be used."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from reslab.cli.app import app
from reslab.data.boxes import BoxImageDataset
from reslab.data.check.check import Finding, FindingKind, Severity, check_data
from reslab.data.check.findings import list_findings
from reslab.data.check.statistics import count_boxes
from reslab.data.registry import list_dataset, open_dataset

sys.path.insert(0, str(Path(__file__).parent.parent))
from box_files import CLASSES, OBJECTS, SPLITS, TRAIN, coco_content, write_coco, write_csv, write_voc, write_yolo


def findings(folder: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in list_findings(check_data(folder))}


def test_a_named_dataset_is_listed_with_its_task_and_messages() -> None:
    listing, data = list_dataset("drawn-shapes"), open_dataset("drawn-shapes")
    assert (listing.task, listing.messages) == (data.task, data.messages)
    assert listing.task == "detection"


def test_boxes_are_counted_exactly(tmp_path: Path) -> None:
    check = check_data(write_coco(tmp_path))
    result = check.to_dict()
    assert json.loads(json.dumps(result)) == result
    for split, images in SPLITS.items():
        names = [name for i in images for name, _ in OBJECTS[i]]
        areas = [(x2 - x1) * (y2 - y1) for i in images for _, (x1, y1, x2, y2) in OBJECTS[i]]
        actual = result["boxes"][split]
        assert actual["num_boxes"] == len(names)
        assert actual["per_class"] == {name: names.count(name) for name in CLASSES}
        assert actual["sizes"] == {
            "small": sum(area < 1024 for area in areas),
            "medium": sum(area >= 1024 for area in areas),
            "large": 0,
        }
        assert actual["median_side"] == pytest.approx(float(np.median(np.sqrt(areas))))
        shown = [{name for name, _ in OBJECTS[i]} for i in images]
        counts = {name: sum(name in of_image for of_image in shown) for name in CLASSES}
        assert result["splits"][split]["per_class"] == counts
    assert result["boxes"]["train"]["without_object"] == ["train2017/02.png"]
    assert [image.label for image in check.images[:3]] == ["cat, dog", "hen", "(no object)"]
    assert check.eval_transform == ""


def test_each_size_is_that_of_coco(tmp_path: Path) -> None:
    content = coco_content(TRAIN)
    for annotation, area in zip(content["annotations"], (1023.9, 1024, 9215.9, 9216, 5, 1e5), strict=True):
        annotation["area"] = area
    dataset = list_dataset(write_coco(tmp_path, {"train": content})).splits["train"]
    assert isinstance(dataset, BoxImageDataset)
    assert count_boxes(dataset, 3).sizes == {"small": 2, "medium": 2, "large": 2}


def write_yolo_lists(root: Path) -> Path:
    """Lists of the images in place of their folders."""
    write_yolo(root)
    for split, images in SPLITS.items():
        (root / f"{split}.txt").write_text("".join(f"./images/{split}/{i:02}.png\n" for i in images))
    data = root / "data.yaml"
    data.write_text(data.read_text().replace("train: images/train\nval: images/val", "train: train.txt\nval: val.txt"))
    return root


@pytest.mark.parametrize("write", [write_coco, write_csv, write_yolo_lists])
def test_a_listed_image_that_is_missing_is_not_an_unreadable_one(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = write(tmp_path)
    [missing], [damaged] = sorted(tmp_path.rglob("01.png")), sorted(tmp_path.rglob("03.png"))
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:60])
    check = check_data(data)
    result = check.to_dict()
    assert result["missing"] == [missing.relative_to(tmp_path).as_posix()]
    assert [image["path"] for image in result["unreadable"]] == [damaged.relative_to(tmp_path).as_posix()]
    found = {finding.kind: finding for finding in list_findings(check)}
    assert found[FindingKind.MISSING].severity == found[FindingKind.UNREADABLE].severity == Severity.ERROR
    assert found[FindingKind.MISSING].text.startswith(f"1 image is missing: {result['missing'][0]}; correct the list")


def test_what_is_wrong_is_an_error_and_what_is_odd_a_warning(tmp_path: Path) -> None:
    content = coco_content(TRAIN)
    content["annotations"][0]["bbox"] = [-6, 4, 26, 26]  # clipped
    content["annotations"][1]["bbox"] = [30, 5, -10, 35]  # swapped
    content["annotations"][2]["bbox"] = [0, 0, 0, 9]  # empty
    content["annotations"][3]["bbox"] = [1, 2, 7, 34]
    content["annotations"][4]["bbox"] = [1, 2, 7, 34]  # repeated, both 7 pixels wide
    content["annotations"][5]["bbox"] = [2, 10, 33, 3]  # 11 times as wide as high
    root = write_coco(tmp_path, {"train": content})
    result = findings(root)
    error = result[FindingKind.BOXES]
    assert error.severity is Severity.ERROR
    for text in ("of 1 image cannot be used: train2017/00.png", "annotation 1: required: a box with x1 < x2"):
        assert text in error.text
    assert "1 box beyond the border" in result[FindingKind.CLIPPED_BOXES].text
    assert "train2017/00.png annotation 0" in result[FindingKind.CLIPPED_BOXES].text
    assert "train2017/01.png annotation 10" in result[FindingKind.EMPTY_BOXES].text
    assert result[FindingKind.REPEATED_BOXES].severity is Severity.WARNING
    assert result[FindingKind.REPEATED_BOXES].text.startswith("1 box is with the class and box of another")
    assert result[FindingKind.TINY_BOXES].text.startswith(
        "3 boxes are less than 8 pixels high or wide: in train2017/03"
    )
    assert result[FindingKind.ELONGATED_BOXES].text.startswith("1 box is over 10 times as long as wide")
    assert "train2017/01.png, train2017/02.png" in result[FindingKind.WITHOUT_OBJECT].text
    assert "Fewer than 20 training objects of cat" in result[FindingKind.SMALL_CLASSES].text
    assert "of the training objects are small" in result[FindingKind.SMALL_BOXES].text
    issues = check_data(root).to_dict()["boxes"]["train"]["issues"]
    assert [issue["kind"] for issue in issues] == ["clipped", "swapped", "empty"]


def test_a_class_that_the_data_do_not_have_is_an_error_of_its_image(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    labels = root / "labels" / "train" / "00.txt"
    labels.write_text(labels.read_text() + "7 0.5 0.5 0.2 0.2\n")
    found = findings(root)
    error = found[FindingKind.BOXES]
    assert error.severity is Severity.ERROR
    assert "of 1 image cannot be used: images/train/00.png (00.txt: unknown class in line 3 '7'" in error.text
    assert "1 image is without any object, which teaches" in found[FindingKind.WITHOUT_OBJECT].text


def test_good_data_has_no_findings_of_its_own(tmp_path: Path) -> None:
    serious = [finding for finding in findings(write_voc(tmp_path)).values() if finding.severity is not Severity.NOTE]
    assert serious == []


def test_the_command_prints_images_and_boxes_and_writes_the_page(tmp_path: Path) -> None:
    root, page = write_voc(tmp_path / "animals"), tmp_path / "page.html"
    result = CliRunner().invoke(app, ["data", "check", str(root), "--html", str(page)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:5] == [
        ["class", "train", "images", "boxes", "val", "images", "boxes"],
        ["cat", "2", "2", "1", "1"],
        ["dog", "2", "3", "1", "1"],
        ["hen", "1", "1", "1", "1"],
        ["all", "4", "6", "2", "3"],
    ]
    html = page.read_text()
    for text in ('<h2 id="boxes-h">Boxes</h2>', "boxes of hen", "images without an object", "1 cat, 2 dog"):
        assert text in html


def test_a_layout_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    (root / "annotations/instances_val2017.json").write_text("{")
    result = findings(root)[FindingKind.LAYOUT]
    assert result.severity is Severity.ERROR
    assert "instances_val2017.json: not valid JSON" in result.text


def test_a_split_without_any_object_is_counted(tmp_path: Path) -> None:
    dataset = list_dataset(write_coco(tmp_path)).splits["train"]
    assert isinstance(dataset, BoxImageDataset)
    statistics = count_boxes(dataset.subset([2]), 3)
    assert statistics.objects_per_class.tolist() == statistics.images_per_class.tolist() == [0, 0, 0]
    assert (statistics.num_objects, statistics.median_side, statistics.without_object) == (0, 0.0, (0,))
    assert statistics.tiny == statistics.elongated == statistics.repeated == ()
    assert sum(statistics.sizes.values()) == 0
