"""Splits: exact counts by class, rebuilt from their record; invalid ones.

Fewer training images: shares, the record, and the same images again.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.data.adapters import as_dataset
from reslab.data.image_datasets import FileImageDataset, TensorImageDataset
from reslab.data.registry import open_dataset
from reslab.data.splits import (
    check_label_coverage,
    restore_split,
    split_off,
    stratified_indices,
    stratified_split,
    stratified_subset,
)

CLASSES = ("a", "b", "c")
LABELS = torch.tensor([0] * 50 + [1] * 13 + [2] * 7)[torch.randperm(70, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("fraction", "counts"), [(0.2, [10, 3, 1]), (0.5, [25, 7, 4]), (0.1, [5, 1, 1])])
def test_stratified_is_exact(fraction: float, counts: list[int]) -> None:
    kept, held = stratified_split(LABELS, fraction, 0, CLASSES)
    assert sorted(kept + held) == list(range(70))
    assert LABELS[held].bincount(minlength=3).tolist() == counts
    assert stratified_split(LABELS, fraction, 0, CLASSES) == (kept, held)
    assert stratified_split(LABELS, fraction, 1, CLASSES) != (kept, held)


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5])
def test_fraction_outside(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(LABELS, fraction, 0, CLASSES)


@pytest.mark.parametrize(("fraction", "side"), [(0.05, "validation"), (0.95, "training")])
def test_class_left_without_a_sample(fraction: float, side: str) -> None:
    with pytest.raises(ValueError, match=f"class 'c' and leaves none for {side}") as caught:
        stratified_split(LABELS, fraction, 0, CLASSES)
    nearest = float(str(caught.value).split("nearest valid: ")[1].split(";")[0])
    stratified_split(LABELS, nearest, 0, CLASSES)


def test_class_of_one_sample() -> None:
    with pytest.raises(ValueError, match=r"at least 2 images of every class.*class 'b'"):
        stratified_split(torch.tensor([0, 0, 0, 1]), 0.5, 0, CLASSES)


def test_tensors_are_split_again() -> None:
    images = TensorImageDataset(torch.arange(70, dtype=torch.uint8)[:, None, None, None], LABELS)
    parts, record = split_off(images, 0.2, 3, CLASSES)
    again = restore_split(images, json.loads(json.dumps(record)))
    for split in ("train", "val"):
        assert torch.equal(again[split].images, parts[split].images)  # type: ignore[attr-defined]
        assert torch.equal(again[split].labels, parts[split].labels)
    assert parts["val"].name(0) == f"#{record['indices'][0]}"
    with pytest.raises(ValueError, match="image #"):
        restore_split(images.subset(range(10)), record)


def test_restored_split_ignores_files_added_later() -> None:
    root = Path("/images")
    paths = tuple(root / f"{i:02}.png" for i in range(70))
    images = FileImageDataset(paths, LABELS, 3, root)
    parts, record = split_off(images, 0.2, 0, CLASSES)
    # A file that came later moves every index, and changes no file's side.
    more = FileImageDataset((root / "000.png", *paths), torch.cat([torch.tensor([0]), LABELS]), 3, root)
    assert restore_split(more, json.loads(json.dumps(record)))["val"].paths == parts["val"].paths  # type: ignore[attr-defined]
    gone = FileImageDataset(paths[: int(record["names"][0][:2])], LABELS[: int(record["names"][0][:2])], 3, root)
    with pytest.raises(ValueError, match=f"missing: {record['names'][0]}"):
        restore_split(gone, record)


def test_every_class_has_its_share_and_at_least_one() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 19 + [3])
    counts = labels[stratified_indices(labels, 20)].bincount()
    assert counts.tolist() == [10, 6, 3, 1]  # of 10, 6, 3.8 and 0.2: the smallest class is kept
    assert labels[stratified_indices(labels, 10)].bincount().tolist() == [5, 3, 1, 1]


def test_stratified_indices_with_the_full_count_return_every_index() -> None:
    labels = torch.tensor([1, 0, 2, 2, 1, 0, 0])
    assert stratified_indices(labels, 7) == list(range(7))


def test_what_is_taken_is_recorded_and_evaluated_on_the_whole_test_split() -> None:
    whole = open_dataset("digits")
    cut = stratified_subset(whole, 100)
    assert len(cut.split("train")) == 100
    assert len(cut.split("test")) == len(whole.split("test"))
    assert cut.split_record["num_images"] == 100
    assert cut.split_record["indices"] == whole.split_record["indices"]
    assert cut.fingerprint != whole.fingerprint
    assert stratified_subset(whole, 100).fingerprint == cut.fingerprint
    assert stratified_subset(cut, 100) is cut


@pytest.mark.parametrize("number", [0, 9, 1439, 10**6])
def test_invalid_numbers_of_images(number: int) -> None:
    with pytest.raises(ValueError, match="num_images from 10, one a class, to the 1,438 training images of digits"):
        stratified_subset(open_dataset("digits"), number)


def test_a_rare_class_stays_in_train_under_the_default_fraction_only(tmp_path: Path) -> None:
    for name, num in (("ants", 10), ("bees", 10), ("rare", 2)):
        for i in range(num):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (70, 70), (i, 0, 0)).save(path)
    data = open_dataset(tmp_path)
    assert data.splits["train"].labels.bincount().tolist() == [8, 8, 2]
    assert data.splits["val"].labels.bincount(minlength=3).tolist() == [2, 2, 0]
    assert data.messages == (
        "all images of the class rare are kept for training: too few to hold one out for validation",
    )
    again = open_dataset(tmp_path, split_record=json.loads(json.dumps(data.split_record)))
    assert (again.fingerprint, again.messages) == (data.fingerprint, data.messages)
    with pytest.raises(ValueError, match="class 'rare' and leaves none for validation"):
        open_dataset(tmp_path, val_fraction=0.2)
    as_recipe = open_dataset(tmp_path, val_fraction=0.2, is_default_fraction=True)
    assert (as_recipe.fingerprint, as_recipe.messages) == (data.fingerprint, data.messages)


def test_the_fraction_of_a_recipe_gives_way_to_rare_classes_and_to_a_validation_split() -> None:
    images, labels = torch.zeros(21, 1, 8, 8, dtype=torch.uint8), torch.tensor([0] * 10 + [1] * 10 + [2])
    data = as_dataset((images, labels), val_fraction=0.2, is_default_fraction=True)
    assert data.splits["train"].labels.bincount().tolist() == [8, 8, 1]
    assert "the class 2" in data.messages[0]
    with pytest.raises(ValueError, match="class '2'"):
        as_dataset((images, labels), val_fraction=0.2)
    val = (images[:10], labels[5:15])
    data = as_dataset((images, labels), val=val, val_fraction=0.2, is_default_fraction=True)
    assert (len(data.splits["train"]), len(data.splits["val"])) == (21, 10)


@pytest.mark.parametrize(
    ("train", "val", "num_classes", "has_class_list", "expected"),
    [
        ([0, 1, 2], [0, 2, 1], 3, False, ()),
        ([0, 1, 2], [0, 2], 3, False, "no validation image has the class 1, of 3 classes"),
        ([0, 2], [0], 3, True, "no validation image has the class 2, of 3 classes"),
        ([1, 2, 3], [1], 4, False, "labels seem to count from 1"),
        ([0, 2, 5], [0], 6, False, "no training image has the classes 1, 3, 4, of 6 classes"),
        ([0, 1], [2], 3, False, None),
        ([0, 1], [2], 3, True, "validation images have classes that no training image has: 2"),
    ],
)
def test_labels_that_training_lacks(
    train: list[int], val: list[int], num_classes: int, has_class_list: bool, expected: str | tuple[str, ...] | None
) -> None:
    labels, classes = {"train": torch.tensor(train), "val": torch.tensor(val)}, [str(i) for i in range(num_classes)]
    if expected is None:
        with pytest.raises(
            ValueError, match=r"validation labels that training images have too \(0 to 1\); got: label 2"
        ):
            check_label_coverage(labels, classes, has_class_list=has_class_list)
        return
    messages = check_label_coverage(labels, classes, has_class_list=has_class_list)
    assert expected == messages or (expected and str(expected) in " ".join(messages))
