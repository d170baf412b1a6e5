"""CIFAR-10's airplanes and birds: the two-class data set of the book's chapters 7 and 8."""

from dataclasses import replace
from pathlib import Path

import torch

from reslab.data.dataset_info import Entry, Found
from reslab.data.formats.cifar import read_cifar
from reslab.data.image_datasets import TensorImages

CIFAR10 = "cifar10"
PUBLISHED_LABELS = (0, 2)  # airplane and bird in CIFAR-10's own order


def read_cifar2(entry: Entry, data_dir: Path | None) -> Found:
    """CIFAR-10 as it is found, its two classes relabelled 0 and 1: 10,000 train, 2,000 test, in CIFAR-10's order.

    The book calls the 2,000 its validation set; here they are the test split, so that no weights are chosen on them.
    """
    found = read_cifar(replace(entry, name=CIFAR10), data_dir)
    labels = _labels(entry.classes, found.classes)
    splits = {split: _two(images, labels) for split, images in found.splits.items() if isinstance(images, TensorImages)}
    return Found(splits, found.location)


def _labels(wanted: tuple[str, ...], classes: tuple[str, ...]) -> tuple[int, ...]:
    """Where the two classes stand among those that the place names, else among the published ones."""
    return tuple(classes.index(name) for name in wanted) if set(wanted) <= set(classes) else PUBLISHED_LABELS


def _two(images: TensorImages, labels: tuple[int, ...]) -> TensorImages:
    new = torch.full((int(images.labels.max()) + 1,), -1, dtype=torch.int64)
    for label, old in enumerate(labels):
        new[old] = label
    chosen = (new[images.labels] >= 0).nonzero().flatten()
    return TensorImages(images.images[chosen], new[images.labels[chosen]])
