"""Labels of several classes and of numbers: what is required of them, their splits, their batches, and bad labels."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from reslab.data.adapters import as_dataset, infer_target_kind
from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import FileImageDataset, TensorImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.sampler import StatelessSampler
from reslab.data.splits import stratified_split, stratified_subset, systematic_indices
from reslab.data.targets import TARGET_RULES, check_labels, resolve_num_outputs
from reslab.spec.task import TargetKind

NUM = 60
PIXELS = torch.randint(0, 256, (NUM, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
CLASSES = ("cat", "dog", "bird")
# Every third image shows the first class, every fifth the second, every 20th the third; some show none.
SHOWN = torch.stack([(torch.arange(NUM) % step == 0).float() for step in (3, 5, 20)], 1)
VALUES = torch.linspace(-3.0, 7.0, NUM)[torch.randperm(NUM, generator=torch.Generator().manual_seed(0))]


def multi_label(**options: Any) -> DatasetSplits:
    return as_dataset((PIXELS, SHOWN), classes=CLASSES, **options)


def regression(**options: Any) -> DatasetSplits:
    return as_dataset((PIXELS, VALUES), classes=("weight",), **options)


def test_columns_of_0_and_1_are_for_multi_label() -> None:
    data = multi_label()
    train = data.split("train")
    assert (data.task, data.target_kind, data.classes) == ("multi-label", TargetKind.MULTI_HOT, CLASSES)
    assert train.labels.dtype == torch.float32
    assert torch.equal(train.labels, SHOWN)
    assert torch.equal(train[60 - 15][1], torch.tensor([1.0, 1.0, 0.0]))
    assert data.split_record == {"method": "given", "task": "multi-label"}
    assert data.imbalance == pytest.approx(20 / 3)
    assert "the task is multi-label" in data.messages[0]
    assert repr(train) == "TensorImageDataset(60 images, 3 classes)"
    assert data.describe().endswith("60 train, 3 classes")


def test_numbers_with_fractions_are_for_regression() -> None:
    data = regression()
    assert (data.task, data.classes, data.imbalance) == ("regression", ("weight",), 1.0)
    assert torch.equal(data.split("train").labels, VALUES[:, None])
    assert torch.equal(data.split("train")[7][1], VALUES[7:8])
    assert data.describe().endswith("60 train, 1 value")
    assert repr(data).endswith("1 value: weight")
    assert "the task is regression" in data.messages[0]
    assert as_dataset((PIXELS, VALUES)).classes == ("value",)
    assert as_dataset((PIXELS, torch.stack([VALUES, VALUES], 1))).classes == ("value 0", "value 1")


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (SHOWN, TargetKind.MULTI_HOT),
        (SHOWN.long(), TargetKind.MULTI_HOT),
        (SHOWN.bool(), TargetKind.MULTI_HOT),
        (VALUES, TargetKind.VALUES),
        (VALUES.double()[:, None], TargetKind.VALUES),
        (torch.full((NUM,), math.nan), TargetKind.VALUES),
        # In doubt, classes: whole numbers, one-hot classes, distributions, a single column of 0 and 1.
        (VALUES.round(), TargetKind.CLASS),
        (torch.eye(3)[torch.arange(NUM) % 3], TargetKind.CLASS),
        (torch.softmax(torch.randn(NUM, 4), 1), TargetKind.CLASS),
        (SHOWN[:, :1], TargetKind.CLASS),
        (torch.arange(NUM), TargetKind.CLASS),
    ],
)
def test_what_labels_leave_no_doubt_about(labels: Tensor, kind: TargetKind) -> None:
    assert infer_target_kind(labels) == kind


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (torch.arange(NUM), "regression", torch.arange(NUM).float()[:, None]),
        (torch.eye(3)[torch.arange(NUM) % 3], "multi-label", torch.eye(3)[torch.arange(NUM) % 3]),
        (torch.arange(NUM) % 2, "multi-label", (torch.arange(NUM) % 2).float()[:, None]),
        (SHOWN, "regression", SHOWN),
    ],
)
def test_the_task_decides_where_labels_are_in_doubt(labels: Tensor, task: str, expected: Tensor) -> None:
    data = as_dataset((PIXELS, labels), task=task)
    assert data.task == task
    assert torch.equal(data.split("train").labels, expected)
    assert not data.messages


def with_label(labels: Tensor, index: tuple[int, ...], value: float) -> Tensor:
    changed = labels.clone()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (with_label(VALUES, (3,), math.nan), {}, "finite numbers as labels; got: nan for #3"),
        (torch.full((NUM,), math.inf), {"task": "regression"}, "inf for #0, inf for #1, inf for #2 and 57 more"),
        (with_label(SHOWN, (4, 1), 0.5), {"task": "multi-label"}, "labels of 0 and 1, 1 for each class that an image"),
        (with_label(SHOWN, (4, 1), 0.5), {"task": "multi-label"}, "got: 0.5 for #4"),
        (torch.arange(NUM), {"task": "multi-label"}, "torch.nn.functional.one_hot(labels).float()"),
        (torch.arange(NUM) - 1, {}, "labels from 0 up; got: label -1"),
        (SHOWN, {"task": "multi-lable"}, "unknown task 'multi-lable'; nearest: 'multi-label'"),
        (SHOWN, {"task": "segmentation"}, "masks (N, H, W) of class numbers"),
        (SHOWN, {"task": "classification"}, "labels.argmax(1); or pass task='multi-label'"),
        (VALUES, {"task": "classification"}, "labels.long(); or pass task='regression'"),
        (SHOWN, {"classes": ("a", "b")}, "a column for each of the classes a, b; got: shape (60, 3)"),
        (VALUES, {"classes": ("a", "b")}, "a column for each of the values a, b; got: shape (60, 1)"),
        (torch.zeros(NUM, 0), {"task": "multi-label"}, "got: torch.float32 of shape (60, 0)"),
        (torch.zeros(NUM, 2, 2), {"task": "regression"}, "got: torch.float32 of shape (60, 2, 2)"),
        (VALUES[:9], {}, "one label for each of 60 images; got: 9 labels"),
    ],
)
def test_labels_that_do_not_suit(labels: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        as_dataset((PIXELS, labels), **options)
    assert message in str(caught.value)


def test_splits_of_two_tasks() -> None:
    train = TensorImageDataset(PIXELS, VALUES[:, None], target_kind=TargetKind.VALUES)
    classes = TensorImageDataset(PIXELS, torch.arange(NUM) % 2)
    with pytest.raises(ValueError, match="labels for the task regression; got: test labels for classification"):
        as_dataset(train, test=classes)
    with pytest.raises(ValueError, match="labels for the task classification; got: training labels for regr"):
        as_dataset(train, task="classification")


def test_files_name_the_image_of_an_invalid_label(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{i}.png" for i in range(3))
    labels = torch.tensor([[1.0], [math.nan], [2.0]])
    with pytest.raises(ValueError, match=r"got: nan for 1\.png"):
        FileImageDataset(paths, labels, root=tmp_path, target_kind=TargetKind.VALUES)
    with pytest.raises(ValueError, match=r"labels \(N, K\) in float32.*got: torch.int64 of shape \(3,\)"):
        check_labels(torch.arange(3), 3, TargetKind.VALUES)


class Items:
    """Items (Pillow image, label) of a map-style dataset."""

    def __init__(self, labels: list[Any]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Image.Image, Any]:
        return Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()), self.labels[i]


@pytest.mark.parametrize("make", [list, tuple, np.asarray, lambda row: torch.tensor(row)])
def test_items_with_several_classes(make: Any) -> None:
    data = as_dataset(Items([make(row) for row in SHOWN.int().tolist()]))
    assert (data.task, data.classes) == ("multi-label", ("0", "1", "2"))
    assert torch.equal(data.split("train").labels, SHOWN)


def test_items_with_numbers() -> None:
    assert as_dataset(Items(VALUES.tolist())).task == "regression"
    assert as_dataset(Items([np.float32(value) for value in VALUES.tolist()])).task == "regression"
    # Whole numbers are classes, also as floats: one that a dataset stores as 3.0 means the class 3.
    assert as_dataset(Items([float(i % 3) for i in range(NUM)])).task == "classification"
    assert as_dataset(TensorDataset(PIXELS, SHOWN)).task == "multi-label"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0], [0, 1], [1, 1, 0]], "labels of one shape; got: shape (2,) of item 0 and (3,) of item 2"),
        ([{"boxes": 1}, 2], "a label as a number or a tensor; got: a dict of item 0"),
        ([1, None, 2], "a label as a number or a tensor; got: a NoneType of item 1"),
        (["ant", "bee"], "the text 'ant'"),
        ([0.5, math.nan, 1.5], "got: nan for #1"),
    ],
)
def test_items_that_do_not_suit(labels: list[Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        as_dataset(Items(labels))
    assert message in str(caught.value)


def test_the_group_is_the_rarest_class() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    groups = TARGET_RULES[TargetKind.MULTI_HOT].groups(labels)
    # The third class has 1 image, the first and the second have 3 each, of which the first counts.
    assert groups.tolist() == [0, 0, 3, 2, 1]


def test_the_group_of_a_value_is_its_decile() -> None:
    groups = TARGET_RULES[TargetKind.VALUES].groups(VALUES[:, None])
    assert torch.equal(groups[VALUES.argsort()], torch.arange(NUM) // 6)


def test_systematic_indices_take_the_same_share_of_every_group() -> None:
    groups = torch.tensor([0] * 37 + [1] * 2 + [2] * 11)[torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    for num_images in (1, 7, 25, 49, 50):
        indices = systematic_indices(groups, num_images, seed=5)
        assert len(set(indices)) == num_images
        assert indices == sorted(indices)
        shares = groups[indices].bincount(minlength=3) - groups.bincount() * num_images / 50
        assert float(shares.abs().max()) <= 1
    assert systematic_indices(groups, 25, 5) != systematic_indices(groups, 25, 6)


@pytest.mark.parametrize("data", [multi_label(val_fraction=0.25), regression(val_fraction=0.25)])
def test_a_held_out_split_has_the_same_shares_and_is_recorded(data: DatasetSplits) -> None:
    train, val = data.split("train").labels, data.split("val").labels
    assert (len(train), len(val)) == (45, 15)
    assert float((train.mean(0) - val.mean(0)).abs().max()) < 0.2
    record = json.loads(json.dumps(data.split_record))
    labels = SHOWN if data.task == "multi-label" else VALUES
    again = as_dataset((PIXELS, labels), classes=data.classes, split_record=record)
    assert again.fingerprint == data.fingerprint
    assert (again.task, again.split_record) == (data.task, data.split_record)


def test_rare_classes_are_no_obstacle_to_a_split() -> None:
    labels = torch.eye(NUM)
    kept, held_out = stratified_split(labels, 0.2, 0, [], target_kind=TargetKind.MULTI_HOT)
    assert (len(kept), len(held_out)) == (48, 12)
    with pytest.raises(ValueError, match="a validation fraction that leaves images on both sides"):
        stratified_split(labels[:2], 0.1, 0, [], target_kind=TargetKind.MULTI_HOT)


def test_an_old_record_without_a_task_is_of_classification() -> None:
    with pytest.raises(ValueError, match="labels as integers, one class per image"):
        as_dataset((PIXELS, VALUES), split_record={"method": "given"})


def test_subsets_take_the_same_share() -> None:
    subset = stratified_subset(regression(), 20)
    assert len(subset.split("train")) == 20
    assert float((subset.split("train").labels.mean() - VALUES.mean()).abs()) < 0.3
    assert subset.split_record["num_images"] == 20
    assert len(stratified_subset(multi_label(), 2).split("train")) == 2
    with pytest.raises(ValueError, match="num_images from 2 to the 60 training images"):
        stratified_subset(multi_label(), 1)


def test_classes_that_training_images_never_show_are_a_message() -> None:
    unseen = with_label(torch.zeros(NUM, 3), (0, 2), 1)
    data = as_dataset((PIXELS, SHOWN * torch.tensor([1.0, 1.0, 0.0])), test=(PIXELS, unseen), classes=CLASSES)
    assert "test images have classes that no training image has: bird" in data.messages
    assert "no training image has the class bird, of 3 classes" in data.messages


@pytest.mark.parametrize("data", [multi_label(), regression()])
def test_batches_have_the_labels_as_they_are(data: DatasetSplits) -> None:
    train = data.split("train")
    loader = TrainLoader(train, 8, "", data.preprocess, 0, "cpu")
    _, y, indices = next(loader.iter_from())
    assert torch.equal(y, train.labels[indices])
    assert loader.num_classes == len(data.classes)
    x, y, _ = next(eval_loader(train, 7, data.preprocess, "cpu"))
    assert torch.equal(y, train.labels[:7])
    assert torch.equal(x[3], train[3][0])


@pytest.mark.parametrize(("data", "transform"), [(multi_label(), "cutmix(1)"), (regression(), "mixup(1)")])
def test_labels_are_mixed_as_the_images(data: DatasetSplits, transform: str) -> None:
    train = data.split("train")
    loader = TrainLoader(train, 8, transform, data.preprocess, 0, "cpu")
    plain = TrainLoader(train, 8, "", data.preprocess, 0, "cpu")
    (x, y, _), (plain_x, plain_y, _) = next(loader.iter_from(3)), next(plain.iter_from(3))
    assert loader.batch_mixer is not None
    lam = loader.batch_mixer.sample_params(0, 3, 6, 6).lam
    partner = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    assert not torch.equal(x, plain_x)
    torch.testing.assert_close(y, lam * plain_y + (1 - lam) * plain_y[partner])


def test_what_needs_one_class_an_image() -> None:
    train, preprocess = regression().split("train"), regression().preprocess
    with pytest.raises(ValueError, match=r"without cutmix for regression .*nearest valid: mixup\(0.5\)"):
        TrainLoader(train, 8, "cutmix(0.5)", preprocess, 0, "cpu")
    with pytest.raises(
        ValueError, match="one class per image for class-balanced sampling; got: labels for multi-label"
    ):
        StatelessSampler(SHOWN, 8, 0, class_balanced=True, target_kind=TargetKind.MULTI_HOT)
    with pytest.raises(ValueError, match="3 classes, the columns of the labels; got: 5"):
        TrainLoader(multi_label().split("train"), 8, "", preprocess, 0, "cpu", num_classes=5)
    assert resolve_num_outputs(torch.tensor([0, 4]), TargetKind.CLASS, 7) == 7
    assert resolve_num_outputs(torch.tensor([0, 4]), TargetKind.CLASS, None) == 5


def test_the_fingerprint_depends_on_the_labels() -> None:
    assert multi_label().fingerprint != as_dataset((PIXELS, 1 - SHOWN), task="multi-label").fingerprint
    assert regression().fingerprint != as_dataset((PIXELS, VALUES + 1)).fingerprint
