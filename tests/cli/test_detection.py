"""Detection on the command line: from images with boxes to predictions, and what a user may get wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reslab.cli.app import main
from tests.cli.conftest import Command

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from box_files import OBJECTS, SIZES, TRAIN, VAL, coco_content, voc_xml, write_coco, write_image, write_voc

SMALL = ("depths=1,1,1", "widths=4,8,8", "stem=conv3/2(4) norm act", "min_size=32", "max_size=48", "pyramid_channels=8")
TRAIN_OPTIONS = (
    *("--model", "resnet20_cifar", "--epochs", "1", "--batch-size", "2", "--workers", "0", "--json"),
    *(word for axis in SMALL for word in ("--set", f"model.{axis}")),
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture(scope="module")
def run(cells: Path) -> Path:
    path = cells.parent / "run"
    words = ("train", str(cells), *TRAIN_OPTIONS, "--output", str(path))
    assert main(list(words)) == 0
    return path


def test_from_boxes_to_predictions(command: Command, cells: Path, run: Path, tmp_path: Path) -> None:
    """The commands of README.md, of which `serve` has its own tests, and the file of the last one evaluated alone."""
    page, detections = tmp_path / "cells.html", tmp_path / "found.coco.json"
    value = command("eval", run, "--per-class", "--html", page, "--json").value
    assert value["task"] == "detection"
    assert [row["name"] for row in value["classes"]] == ["cat", "dog", "hen"]
    assert "Average precision" in page.read_text()
    (tmp_path / "new").mkdir()
    for i in VAL:
        (tmp_path / "new" / f"{i:02}.png").write_bytes((cells / "JPEGImages" / f"{i:02}.png").read_bytes())
    drawn = tmp_path / "drawn"
    outcome = command("predict", run, tmp_path / "new", "--boxes", drawn, "--output", detections)
    assert outcome.code == 0, outcome.err
    assert len(list(drawn.iterdir())) == 2
    assert json.loads(detections.read_text())
    result = command("eval", "--results", detections, "--data", cells, "--json").value
    assert result["ap"] == pytest.approx(value["ap"], abs=1e-6)
    assert result["voc_map"] == pytest.approx(value["voc_map"], abs=1e-6)


@pytest.mark.filterwarnings("default")
def test_results_without_the_data_of_the_run_warn_of_their_ids(command: Command, run: Path, tmp_path: Path) -> None:
    cells = run.parent / "cells"
    image = tmp_path / "one.png"
    image.write_bytes((cells / "JPEGImages" / f"{VAL[0]:02}.png").read_bytes())
    cells.rename(tmp_path / "moved")
    try:
        found, named = (
            command("predict", run, image, "--output", tmp_path / name) for name in ("a.coco.json", "a.voc")
        )
    finally:
        (tmp_path / "moved").rename(cells)
    assert found.code == named.code == 0
    assert "the ids of the classes are 1 to 3" in found.err
    assert "the data of the run could not be opened" in found.err
    assert "ids" not in named.err


def test_a_calibration_is_refused_before_the_evaluation(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reslab.training.evaluation.evaluate.evaluate", None)
    for option in ("--calibration", "--save-temperature"):
        outcome = command("eval", run, option)
        assert outcome.code == 1
        assert f"a classification for {option}; got: {run}, a run of the task detection" in outcome.err


def changed_coco(**changes: Any) -> Callable[[Path], Path]:
    """Return a writer of COCO's layout with a changed first training annotation."""

    def write(root: Path) -> Path:
        content = coco_content(TRAIN)
        content["annotations"][0] |= changes
        return write_coco(root, {"train": content})

    return write


def without_objects(root: Path) -> Path:
    return write_coco(root, {split: {**coco_content(ids), "annotations": []} for split, ids in SPLITS})


SPLITS = (("train", TRAIN), ("val", VAL))


def with_other_val_class(root: Path) -> Path:
    write_voc(root)
    (root / "Annotations" / "04.xml").write_text(voc_xml(SIZES[4], [("emu", (1, 1, 20, 20))]))
    return root


def with_other_val_categories(root: Path) -> Path:
    content = coco_content(VAL)
    content["categories"].append({"id": 99, "name": "emu"})
    return write_coco(root, {"val": content})


def without_images(root: Path) -> Path:
    write_coco(root)
    for path in (root / "train2017").iterdir():
        path.unlink()
    return root


def with_classes(root: Path) -> Path:
    for name in ("a", "b"):
        for i in range(len(OBJECTS)):
            write_image(root / name / f"{i}.png", i)
    return root


@pytest.mark.parametrize(
    ("write", "words", "expected"),
    [
        (changed_coco(bbox=[200, 200, 9, 9]), (), "annotation 0: required: a box inside the image of height 40"),
        (changed_coco(bbox=[3, 4, float("nan"), 9]), (), "annotation 0: required: 4 finite numbers as a box"),
        (changed_coco(image_id=999), (), "got: annotation 0 of image 999, none"),
        (changed_coco(category_id=99), (), "unknown category_id of annotation 0 '99'; known: '3', '7', '11'"),
        (with_other_val_class, (), "validation objects of classes that training images have too; got: emu"),
        (with_other_val_categories, (), "got: others: [(99, 'emu')]"),
        (without_objects, (), "training images with objects; got: none in 4 images"),
        (without_images, (), "4 images listed: no such file"),
        (with_classes, ("--task", "detection"), "required: labels for the task detection in"),
        (write_voc, ("--task", "detecton"), "unknown task 'detecton'; nearest: 'detection'"),
        (write_voc, ("--set", "model.roi_bath_size=3"), "unknown axis 'roi_bath_size'; nearest: 'roi_batch_size'"),
        (write_voc, ("--set", "model.detector=yolo"), "unknown detector 'yolo'; known: 'faster-rcnn'"),
        (write_voc, ("--set", "model.anchor_sizes=8,16"), "anchor_sizes with 4 values, one for each level"),
        (write_voc, ("--recipe", "he2015-cifar"), "a mean of each pixel"),
        (write_voc, ("--recipe", "rsb-a1"), "an image without boxes and masks for"),
    ],
)  # fmt: skip
def test_mistakes_are_errors_before_a_run_is_written(
    command: Command, tmp_path: Path, write: Callable[[Path], Path], words: tuple[str, ...], expected: str
) -> None:
    outcome = command("train", write(tmp_path / "data"), *TRAIN_OPTIONS, *words, "--output", tmp_path / "run")
    assert outcome.code == 1
    assert expected in outcome.value["error"]
    assert not (tmp_path / "run").exists()


def test_images_of_one_pixel_are_trained(command: Command, tmp_path: Path) -> None:
    root = write_voc(tmp_path / "data")
    for path in (root / "JPEGImages").iterdir():
        Image.new("RGB", (1, 1)).save(path)
        (root / "Annotations" / f"{path.stem}.xml").write_text(voc_xml((1, 1), [("cat", (0, 0, 1, 1))]))
    outcome = command("train", root, *TRAIN_OPTIONS, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.err
