"""Data: a named set of labelled pictures, its classes, its splits, and how they came about."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.image_datasets import FileImageDataset, ImageDataset, ShardImageDataset, TensorImageDataset
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.preprocess import Preprocess

SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
"""The splits in their order: the name in code, files and flags, and the word in texts for people."""


@dataclass(frozen=True, eq=False)
class DatasetSplits:
    """A data set: `splits` by name ("train", maybe "val", maybe "test"), class names in label order, and its origin.

    `preprocess` is the evaluation's; `split_record` is JSON from which `open_data` rebuilds the same splits;
    `skipped` holds (path, reason) of pictures left out; `location` the folder or file it was read from.
    Raises ValueError where there is nothing to train on or a label has no class.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    splits: Mapping[str, ImageDataset]
    split_record: Mapping[str, Any] = field(default_factory=lambda: {"method": "given"})
    fingerprint: str = ""
    skipped_files: tuple[tuple[str, str], ...] = ()
    location: str = ""

    def __post_init__(self) -> None:
        assert set(self.splits) <= set(SPLIT_TITLES), sorted(self.splits)
        if len(self.classes) < 2:
            raise invalid(
                f"at least 2 classes in {self.name}",
                "a single class, " + self.classes[0] if self.classes else "none",
                next_step="add a second class",
            )
        if "train" in self.splits and len(self.splits["train"]) < 2:
            raise invalid(
                f"at least 2 training samples in {self.name} (a batch of one has no statistics)",
                f"a data set of {len(self.splits['train'])} sample" + "s" * (len(self.splits["train"]) == 0),
                nearest="2",
                next_step="add pictures",
            )
        for split, dataset in self.splits.items():
            if len(dataset) and int(dataset.labels.max()) >= len(self.classes):
                raise invalid(
                    f"labels of {split} from 0 to {len(self.classes) - 1}", f"label {int(dataset.labels.max())}"
                )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", compute_fingerprint(self.splits))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def eval_split(self) -> str:
        """The split that judges: "test" where there is one, else "val", else "train"."""
        return next(name for name in ("test", "val", "train") if name in self.splits)

    def split(self, name: str) -> ImageDataset:
        """The pictures of a split; raises ValueError naming those there are."""
        if name not in self.splits:
            raise unknown_name(f"split of {self.name}", name, self.splits, f"it has {', '.join(self.splits)}")
        return self.splits[name]

    def describe(self) -> str:
        """One line: `digits: 1,438 train, 359 test, 10 classes`."""
        parts = [f"{len(dataset):,} {name}" for name, dataset in self.splits.items()]
        return f"{self.name}: {', '.join(parts)}, {self.num_classes} classes"


def compute_fingerprint(splits: Mapping[str, ImageDataset]) -> str:
    """A hash of every split's labels and pixels, or (name, size in bytes) of its files: 16 digits of SHA-256.

    Of a data set that makes its items on demand only the labels count.
    """
    digest = hashlib.sha256()
    for name in sorted(splits):
        dataset = splits[name]
        digest.update(f"{name}:{len(dataset)};".encode())
        digest.update(np.ascontiguousarray(dataset.labels.numpy()).data)
        if isinstance(dataset, TensorImageDataset):
            digest.update(f"{dataset.images.dtype}{tuple(dataset.images.shape)}".encode())
            digest.update(_tensor_bytes(dataset.images))
        elif isinstance(dataset, FileImageDataset | ShardImageDataset):
            for i in range(len(dataset)):
                digest.update(f"{dataset.name(i)}:{dataset.num_bytes(i)}\n".encode())
    return digest.hexdigest()[:16]


def _tensor_bytes(images: Tensor) -> memoryview:
    return images.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 (N, C, H, W), of pixels / 255, rounded to 4 digits."""
    scaled = images.double() / 255
    mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3), correction=0)
    return tuple(round(value, 4) for value in mean.tolist()), tuple(round(value, 4) or 1.0 for value in std.tolist())
