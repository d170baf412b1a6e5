"""Tensors and torch datasets as `DatasetSplits`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder

from reslab.data.adapters import as_dataset
from reslab.data.check.check import FindingKind, check_data
from reslab.data.check.findings import list_findings
from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import TensorImageDataset, WrappedImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.spec.preprocess import Preprocess

PIXELS = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(20) % 4


class Items:
    """Items (Pillow image, label), counting how often one is fetched."""

    def __init__(self, **kept: Any) -> None:
        self.num_calls = 0
        self.__dict__.update(kept)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        self.num_calls += 1
        return Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()), int(LABELS[i])


def all_pixels(data: DatasetSplits) -> torch.Tensor:
    return torch.cat([x for x, _, _ in eval_loader(data.splits["train"], 7, data.preprocess, "cpu")])


def test_pair_of_uint8_tensors_is_normalised_by_its_own_statistics() -> None:
    data = as_dataset((PIXELS, LABELS), test=(PIXELS[:8], LABELS[:8]))
    assert (data.classes, data.eval_split) == (("0", "1", "2", "3"), "test")
    assert isinstance(data.splits["train"], TensorImageDataset)
    result = all_pixels(data)
    assert float(result.mean().abs()) < 1e-3
    assert float(result.std()) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("wrap", [tuple, list, lambda pair: TensorDataset(*pair)])
def test_floats_are_taken_as_they_are(wrap: Any) -> None:
    floats = torch.randn(20, 1, 6, 6)
    data = as_dataset(wrap((floats, LABELS)))
    assert data.preprocess == Preprocess(1, "", (0.0,), (1.0,))
    assert torch.equal(all_pixels(data), floats)
    assert torch.equal(all_pixels(as_dataset((floats[:, 0], LABELS.int()))), floats)
    x, _, indices = next(TrainLoader(data.splits["train"], 5, "", data.preprocess, 0, "cpu").iter_from())
    assert torch.equal(x, floats[indices])
    assert data.splits["train"].preview(0).dtype == torch.uint8


def test_numpy_arrays() -> None:
    assert torch.equal(as_dataset((PIXELS.numpy(), LABELS.numpy())).splits["train"].preview(2), PIXELS[2])


def test_pillow_items() -> None:
    data = as_dataset(Items(classes=["w", "x", "y", "z"]), val_fraction=0.25)
    assert data.classes == ("w", "x", "y", "z")
    assert len(data.splits["train"]) == 16
    assert data.splits["val"].labels.bincount().tolist() == [1, 1, 1, 1]
    indices = data.split_record["indices"]
    assert torch.equal(data.splits["val"].preview(0), PIXELS[indices[0]])
    again = as_dataset(Items(), split_record=data.split_record)
    assert again.splits["val"].indices == tuple(indices)  # type: ignore[attr-defined]
    assert data.preprocess.mean == (0.485, 0.456, 0.406)


def test_kept_labels_are_used_unless_changed_on_the_way_out() -> None:
    kept = Items(targets=LABELS.tolist())
    as_dataset(kept)
    assert kept.num_calls <= 3
    changed = Items(targets=[9] * 20, target_transform=lambda label: label)
    assert torch.equal(as_dataset(changed).splits["train"].labels, LABELS)
    part = as_dataset(Subset(Items(targets=LABELS.tolist(), classes=list("wxyz")), [5, 2, 7]))
    assert part.splits["train"].labels.tolist() == [1, 2, 3]
    assert part.classes == ("w", "x", "y", "z")
    assert torch.equal(part.splits["train"].preview(1), PIXELS[2])


def test_splits_number_their_classes_alike(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "train/hen", "val/cat", "val/hen", "most/cat", "most/dog"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()).save(tmp_path / folder / f"{i}.png")
    train, val, most = (ImageFolder(str(tmp_path / split)) for split in ("train", "val", "most"))
    required = "labels of validation images that number the classes of training"
    with pytest.raises(ValueError, match=f"{required}; got: label 1 for hen, in training for dog"):
        as_dataset(train, val)
    with pytest.raises(ValueError, match=required):
        as_dataset(Subset(train, range(6)), Subset(val, range(4)))
    with pytest.raises(ValueError, match="labels of test images"):
        as_dataset(train, test=val, classes=["cat", "dog", "hen"])
    assert as_dataset(train, most).splits["val"].labels.tolist() == [0, 0, 1, 1]
    mapped = ImageFolder(str(tmp_path / "val"), target_transform=lambda label: 2 * label)
    assert as_dataset(train, mapped).splits["val"].labels.tolist() == [0, 0, 2, 2]


def test_grey_pillow_items_stay_grey() -> None:
    items = [(Image.fromarray(PIXELS[i, 0].numpy()), int(LABELS[i])) for i in range(20)]
    data = as_dataset(items)
    assert isinstance(data.splits["train"], WrappedImageDataset)
    assert data.preprocess.channels == 1
    assert torch.equal(data.splits["train"].preview(4)[0], PIXELS[4, 0])


def test_as_dataset_returns_splits_unchanged_and_takes_preprocess() -> None:
    preprocess = Preprocess(3, "resize(4)", (0.1,) * 3, (0.9,) * 3)
    data = as_dataset((PIXELS, LABELS), preprocess=preprocess, classes=list("abcd"), name="mine")
    assert as_dataset(data) is data
    assert (data.preprocess, data.classes, data.name) == (preprocess, ("a", "b", "c", "d"), "mine")
    assert all_pixels(data).shape == (20, 3, 4, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((PIXELS.permute(0, 2, 3, 1), LABELS), "images.permute(0, 3, 1, 2)"),
        ((PIXELS, LABELS.float()), "labels.long()"),
        ((PIXELS, LABELS[:3]), "got: 3 labels"),
        ((PIXELS[:1], LABELS[:1]), "at least 2"),
        ([], "an empty dataset"),
        ([1, 2, 3], "items (image, label); got: a int"),
        ([("text", 1), ("more", 0)], "a tensor (C, H, W) or a Pillow image; got: a str"),
        (iter([1]), "collect an iterable dataset"),
        ({"train": (PIXELS, LABELS)}, "pass splits by name"),
        ((PIXELS, LABELS, LABELS), "pass splits by name"),
        (((PIXELS, LABELS), (PIXELS, LABELS)), "2 pairs (images, labels); pass splits by name"),
        (PIXELS, "got: a Tensor; pass the images with their labels, (images, labels)"),
        (PIXELS.numpy(), "got: a ndarray; pass the images with their labels, (images, labels)"),
        ("digits", "a name or path is opened by open_dataset"),
        (7, "got: a int"),
        (None, "got: a NoneType"),
    ],
)
def test_what_does_not_fit(given: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        as_dataset(given)
    assert message in str(caught.value)


def test_a_mapping_from_numbers_to_items_is_a_dataset() -> None:
    items = {number: (PIXELS[number], int(LABELS[number])) for number in range(len(PIXELS))}
    assert torch.equal(as_dataset(items).splits["train"].preview(3), PIXELS[3])


def test_splits_are_not_split_again() -> None:
    data = as_dataset((PIXELS, LABELS))
    assert as_dataset(data, val_fraction=0.5, is_default_fraction=True) is data
    with pytest.raises(ValueError, match="data without splits, where val_fraction is given; got: a DatasetSplits"):
        as_dataset(data, val_fraction=0.5)


def test_more_labels_than_classes_or_two_validations() -> None:
    with pytest.raises(ValueError, match="training labels from 0 to 1; got: label 3"):
        as_dataset((PIXELS, LABELS), classes=["a", "b"])
    with pytest.raises(ValueError, match="one validation split"):
        as_dataset((PIXELS, LABELS), val=(PIXELS, LABELS), val_fraction=0.5)


def test_labels_from_one_and_gaps_are_reported() -> None:
    assert as_dataset((PIXELS, LABELS)).messages == ()
    assert "labels seem to count from 1; subtract 1" in as_dataset((PIXELS, LABELS + 1)).messages[0]
    assert as_dataset((PIXELS, LABELS * 2)).messages == ("no training image has the classes 1, 3, 5, of 7 classes",)
    with pytest.raises(ValueError, match=r"validation labels that training images have too \(0 to 2\); got: label 3"):
        as_dataset((PIXELS[LABELS < 3], LABELS[LABELS < 3]), val=(PIXELS, LABELS))
    with pytest.raises(ValueError, match=r"labels below 1000, .* got: 10000000000"):
        as_dataset((PIXELS, LABELS * 10_000_000_000 // 3))


def test_normalized_floats_are_reported_where_nobody_records_how() -> None:
    images = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3
    (message,) = as_dataset((images, LABELS)).messages
    assert f"floats from {images.min():.4g} to {images.max():.4g}, normalized by a mean and std" in message
    assert as_dataset((images, LABELS), preprocess=as_dataset((PIXELS, LABELS)).preprocess).messages == ()
    assert as_dataset((images.flatten(2), LABELS), dims=1).messages == ()


def test_floats_to_255_are_reported() -> None:
    assert "training images are floats from 0 to 255" in as_dataset((PIXELS.float(), LABELS)).messages[0]
    assert as_dataset((PIXELS.float() / 255, LABELS)).messages == ()
    findings = {finding.kind: finding for finding in list_findings(check_data(as_dataset((PIXELS.float(), LABELS))))}
    assert findings[FindingKind.FLOAT_RANGE].severity == "warning"
