"""`check_data` of images with masks: the pixels of each class, and every mask that cannot or should not be used."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reslab.data.check.check import Finding, Severity, check_data
from reslab.data.check.findings import list_findings
from reslab.data.check.statistics import count_mask_pixels
from reslab.data.masks import VOID
from reslab.data.registry import list_dataset, open_dataset
from reslab.data.target_datasets import MaskImageDataset

sys.path.insert(0, str(Path(__file__).parent.parent))
from mask_files import disk, write_image, write_mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of 40x50 for training, two for validation; class 2 is one pixel of the first mask."""
    for split, num in (("train", 8), ("val", 2)):
        for i in range(num):
            mask = disk(40, 50, 8 + i)
            if (split, i) == ("train", 0):
                mask[0, 0] = 2
            write_image(tmp_path / split / "images" / f"{i}.png", mask, i + 10 * (split == "val"))
            write_mask(tmp_path / split / "masks" / f"{i}.png", mask)
    (tmp_path / "classes.txt").write_text("ground\ncell\nnucleus\n")
    return tmp_path


def findings(folder: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in list_findings(check_data(folder))}


def test_pixels_are_counted_exactly(folder: Path) -> None:
    check = check_data(folder)
    masks = [disk(40, 50, 8 + i) for i in range(8)]
    cells = sum(int(mask.sum()) for mask in masks)
    result = check.to_dict()
    assert json.loads(json.dumps(result)) == result
    train = result["masks"]["train"]
    assert train["pixels_per_class"] == {"ground": 8 * 2000 - cells - 1, "cell": cells, "nucleus": 1}
    assert (train["void_share"], train["errors"], train["all_void"]) == (0.0, [], [])
    assert result["splits"]["train"]["per_class"] == {"ground": 8, "cell": 8, "nucleus": 1}
    assert (check.images[0].label, check.images[1].label) == ("ground, cell, nucleus", "ground, cell")
    assert check.eval_transform == ""
    dataset = list_dataset(folder).splits["train"]
    assert isinstance(dataset, MaskImageDataset)
    statistics = count_mask_pixels(dataset, 3)
    assert torch.equal(statistics.pixels_per_class, torch.tensor(list(train["pixels_per_class"].values())))
    assert statistics.pixels[1].tolist() == [2000 - int(masks[1].sum()), int(masks[1].sum()), 0]


def test_a_rare_class_is_a_note(folder: Path) -> None:
    result = findings(folder)
    assert result["rare-pixels"].severity is Severity.NOTE
    assert "nucleus 0.01%" in result["rare-pixels"].text
    assert not any(finding.severity is Severity.ERROR for finding in result.values())


def test_masks_that_cannot_be_used_are_errors(folder: Path) -> None:
    write_mask(folder / "train" / "masks" / "1.png", disk(40, 48))
    write_mask(folder / "train" / "masks" / "2.png", disk(40, 50) * 7)
    (folder / "val" / "masks" / "0.png").write_bytes(b"nothing")
    result = findings(folder)["masks"]
    assert result.severity is Severity.ERROR
    assert result.text.startswith("3 masks cannot be used: train/images/1.png, train/images/2.png, val/images/0.png")
    assert "a mask of the size of its image, 40x50; got: 40x48" in result.text
    errors = check_data(folder).to_dict()["masks"]["train"]["errors"]
    assert [error["path"] for error in errors] == ["train/images/1.png", "train/images/2.png"]
    assert "got: 7" in errors[1]["error"]


def test_void_and_empty_masks(folder: Path) -> None:
    write_mask(folder / "train" / "masks" / "1.png", np.full((40, 50), VOID, dtype=np.uint8))
    write_mask(folder / "train" / "masks" / "2.png", np.full((40, 50), VOID, dtype=np.uint8))
    write_mask(folder / "val" / "masks" / "1.png", np.zeros((40, 50), dtype=np.uint8))
    result = findings(folder)
    assert (result["void-masks"].severity, result["without-object"].severity) == (Severity.WARNING, Severity.NOTE)
    assert result["void-masks"].text.startswith("2 images are void throughout")
    assert result["without-object"].text == "1 image is ground throughout, without another class: val/images/1.png."
    assert (
        result["void-share"].text
        == "Void, and so not learned: 25% of the training pixels, 0% of the validation pixels."
    )


def test_a_class_without_pixels_is_a_warning(folder: Path) -> None:
    (folder / "classes.txt").write_text("ground\ncell\nnucleus\nrest\n")
    assert "No training mask has a pixel of rest" in findings(folder)["small-classes"].text


def test_what_would_stop_training_is_an_error(folder: Path) -> None:
    (folder / "train" / "masks" / "3.png").rename(folder / "train" / "masks" / "x.png")
    result = findings(folder)["layout"]
    assert result.severity is Severity.ERROR
    assert "an image without a mask" in result.text
    (folder / "classes.txt").write_text("ground\nground\n")
    assert "every class and color once" in findings(folder)["layout"].text


def test_an_open_dataset_is_checked_too(folder: Path) -> None:
    check = check_data(open_dataset(folder))
    assert check.masks["val"].images_per_class.tolist() == [2, 2, 0]
