"""Tensors and torch datasets of images with masks as datasets for segmentation."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from mask_files import disk
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from reslab.data.adapters import as_dataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.masks import VOID

MASKS = torch.from_numpy(np.stack([disk(20, 24, radius) for radius in range(3, 11)]))
IMAGES = (MASKS[:, None] * 200 + 20).expand(-1, 3, -1, -1).to(torch.uint8).contiguous()


class Items:
    """Items of Pillow images, flipped together at random by the global generator."""

    def __init__(self, as_pillow: bool) -> None:
        self.as_pillow = as_pillow

    def __len__(self) -> int:
        return len(MASKS)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        pixels, mask = IMAGES[i], MASKS[i]
        if bool(torch.rand(()) < 0.5):
            pixels, mask = pixels.flip(-1), mask.flip(-1)
        if not self.as_pillow:
            return pixels, mask[None].long()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy()), Image.fromarray(mask.numpy())


@pytest.mark.parametrize("train", [(IMAGES, MASKS), (IMAGES, MASKS[:, None].long()), TensorDataset(IMAGES, MASKS)])
def test_tensors(train: Any) -> None:
    data = as_dataset(train, val_fraction=0.25)
    assert (data.task, data.classes) == ("segmentation", ("0", "1"))
    assert data.messages[0] == "the labels are masks of the size of the images: the task is segmentation"
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 6, "val": 2}
    for x, y, indices in eval_loader(data.split("train"), 4, data.preprocess, "cpu"):
        assert torch.equal(y, (x[:, 0] > 0).long())
        assert len(x) == len(indices)
    again = as_dataset(train, split_record=data.split_record)
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("as_pillow", [True, False])
def test_items_move_as_their_masks(as_pillow: bool) -> None:
    data = as_dataset(Items(as_pillow))
    assert data.task == "segmentation"
    loader = TrainLoader(data.split("train"), 4, "crop(18) flip", data.preprocess, 0, "cpu")
    batches = list(islice(loader.iter_from(), 6))
    for x, y, _ in batches:
        assert torch.equal(y, (x[:, 0] > float(x.mean())).long())
    workers = TrainLoader(data.split("train"), 4, "crop(18) flip", data.preprocess, 0, "cpu", 2)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(islice(workers.iter_from(3), 3), batches[3:], strict=True))


def test_classes_and_void() -> None:
    masks = MASKS.clone()
    masks[:, 0] = VOID
    masks[2, 5, 5] = 4
    assert as_dataset((IMAGES, masks)).classes == ("0", "1", "2", "3", "4")
    names = ["ground", "a", "b", "c", "d", "e"]
    assert as_dataset((IMAGES, masks), classes=names).classes == tuple(names)
    with pytest.raises(ValueError, match="class numbers from 0 to 1, or 255 for void, in masks; got: 4"):
        as_dataset((IMAGES, masks), classes=["ground", "a"])


@pytest.mark.parametrize(
    ("train", "task", "message"),
    [
        ((IMAGES, MASKS.float()), "segmentation", "masks .N, H, W. of class numbers"),
        ((IMAGES, torch.arange(8)), "segmentation", "masks .N, H, W. of class numbers"),
        ((IMAGES, MASKS * 0), None, "at least 2 classes"),
        ((IMAGES, MASKS), "classification", "one class per image; got: torch.int64 of shape"),
    ],
)
def test_masks_that_do_not_fit(train: tuple[Tensor, Tensor], task: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_dataset(train, task=task)


def test_a_table_of_labels_is_no_mask() -> None:
    """Images of 20x24 with a table of 24 columns are not masks."""
    labels = (torch.arange(8 * 24).view(8, 24) % 3 == 0).long()
    assert as_dataset((IMAGES, labels)).task == "multi-label"
