"""A dataset: labeled images in splits, the class names, and how the splits were made."""

import hashlib
import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.cache import file_digests, is_sampled
from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.file_listing import IgnoredFiles
from reslab.data.image_datasets import (
    FileImageDataset,
    ImageDataset,
    IndexableImages,
    ShardImageDataset,
    TensorImageDataset,
)
from reslab.data.rng import hash_key
from reslab.data.target_datasets import TargetImageDataset
from reslab.data.targets import TARGET_RULES, check_outputs, check_target_kind, count_images, format_outputs
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_IMBALANCE = 3.0
"""The ratio of the largest to the smallest training class beyond which training and `data check` mention it."""
_MAX_SCALED_PIXEL = 20.0  # pixels in [0, 1], normalized or not, stay below


class SplitMethod(StrEnum):
    """The method by which the splits of a dataset were made: `method` of a split record."""

    GIVEN = "given"
    STRATIFIED = "stratified"


@dataclass(frozen=True)
class EvalTransform:
    """From an image and its index to the network's input, as `eval_loader` makes it."""

    preprocess: Preprocess

    def __call__(self, pixels: Tensor, index: int) -> Tensor:
        transform, normalize = _make_transform(self.preprocess)
        return normalize(transform.apply_image(pixels, hash_key(0, 0, index))[None])[0]

    def resize(self, pixels: Tensor, index: int) -> Tensor:
        """Return the image resized and cropped, without the normalization."""
        transform, _ = _make_transform(self.preprocess)
        return transform.apply_image(pixels, hash_key(0, 0, index))

    def apply_sample(self, pixels: Tensor, target: Any, index: int) -> tuple[Tensor, Any]:
        """Return the network's input, and the target of the image moved as the image."""
        transform, normalize = _make_transform(self.preprocess)
        image, moved = transform.apply_sample(pixels, target, hash_key(0, 0, index))
        return normalize(image[None])[0], moved


@lru_cache(maxsize=8)
def _make_transform(preprocess: Preprocess) -> tuple[TransformPipeline, Normalize]:
    return TransformPipeline(preprocess.transform), Normalize(preprocess, torch.device("cpu"))


class UnknownSplitError(ValueError):
    """A dataset has no split of the requested name."""


@dataclass(frozen=True, eq=False, repr=False)
class DatasetSplits:
    """A dataset: `splits` by name ("train", "val", "test", as far as present) and class names in label order.

    `source` describes its origin, `location` is the folder, file or URL it was read from, and `preprocess` the
    preprocessing of the evaluation. `split_record` is JSON from which `open_dataset` makes the same splits again;
    `skipped_files` lists (path, reason) of the images that were skipped because they cannot be read, `decode_warnings`
    (path, warning) of the damaged JPEG files that could still be decoded, `messages` say what else a user should know:
    files that were ignored, classes without images. `task` is the one that its labels suit (`TASKS`); `classes` are the
    names of the outputs: of the classes, or of the numbers in regression. A split indexes and iterates like a torch
    dataset: `split[i]` is (tensor, label), preprocessed as in evaluation. A task other than classification is recorded
    in `split_record`.
    Raises ValueError if there is too little to train on, or the labels do not suit the task or the names.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    splits: Mapping[str, ImageDataset]
    split_record: Mapping[str, Any] = field(default_factory=lambda: {"method": SplitMethod.GIVEN})
    skipped_files: tuple[tuple[str, str], ...] = ()
    decode_warnings: tuple[tuple[str, str], ...] = ()
    location: str = ""
    messages: tuple[str, ...] = ()
    task: str = DEFAULT_TASK

    @property
    def decode_warning_text(self) -> str:
        """A sentence on the damaged images that could still be decoded; empty if there are none."""
        if not self.decode_warnings:
            return ""
        path, warning = self.decode_warnings[0]
        count = "1 image is" if len(self.decode_warnings) == 1 else f"{len(self.decode_warnings):,} images are"
        return f"{count} damaged, but decoded with a warning ({path}: {warning}); `reslab data check` lists them"

    def __post_init__(self) -> None:
        assert set(self.splits) <= set(SPLIT_TITLES), sorted(self.splits)
        rules = TARGET_RULES[self.target_kind]
        if len(self.classes) < rules.min_outputs:
            noun = rules.nouns[0]
            got = f"a single {noun}, {self.classes[0]}" if self.classes else "none"
            required = f"at least {format_outputs(self.target_kind, rules.min_outputs)} in {self.name}"
            raise invalid(required, got, next_step="add a second class" if self.classes else f"name the {noun}")
        if "train" in self.splits and len(self.splits["train"]) < 2:
            num_images = len(self.splits["train"])
            raise invalid(
                f"at least 2 training images in {self.name} (batch statistics need more than one)",
                "1 image" if num_images == 1 else f"{num_images} images",
                nearest="2",
                next_step="add images",
            )
        for split, dataset in self.splits.items():
            if not len(dataset):
                raise invalid(f"{SPLIT_TITLES[split]} images in {self.name}", "none", next_step="add images")
            check_target_kind(dataset.target_kind, self.task, SPLIT_TITLES[split])
            check_outputs(dataset.labels, self.target_kind, self.classes, SPLIT_TITLES[split])
        if self.task != DEFAULT_TASK:
            object.__setattr__(self, "split_record", {**self.split_record, "task": self.task})
        transform = EvalTransform(self.preprocess)
        indexable = {
            name: dataset.with_input_transform(transform) if isinstance(dataset, IndexableImages) else dataset
            for name, dataset in self.splits.items()
        }
        object.__setattr__(self, "splits", indexable)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(dataset):,}" for name, dataset in self.splits.items())
        classes = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        return f"{self.name} ({self.source})\n  images: {sizes}\n  {self._outputs_text}: {classes}"

    @cached_property
    def fingerprint(self) -> str:
        """The hash of every label and image: see `compute_fingerprint`."""
        return compute_fingerprint(self.splits)

    @property
    def num_classes(self) -> int:
        """The number of outputs: of classes, or of values in regression."""
        return len(self.classes)

    @property
    def target_kind(self) -> TargetKind:
        """The form of the labels."""
        return find_task(self.task).target

    @property
    def _outputs_text(self) -> str:
        return format_outputs(self.target_kind, self.num_classes)

    @property
    def eval_split(self) -> str:
        """The split that final results are measured on: test if there is one, else validation, else training."""
        return next(name for name in ("test", "val", "train") if name in self.splits)

    def split(self, name: str) -> ImageDataset:
        """Return the images of a split. Raises UnknownSplitError with the existing names if there is no such split."""
        if name not in self.splits:
            error = unknown_name(f"split of {self.name}", name, self.splits, f"it has {', '.join(self.splits)}")
            raise UnknownSplitError(str(error))
        return self.splits[name]

    @property
    def imbalance(self) -> float:
        """The number of training images of the largest class by that of the smallest class with any; 1 without."""
        train = self.splits.get("train")
        counts = None if train is None else count_images(train.labels, train.target_kind, self.num_classes)
        if counts is None or not bool(counts.any()):
            return 1.0
        return float(counts.max() / counts[counts > 0].min())

    def _repr_html_(self) -> str:
        """Return a table of the splits, for notebooks."""
        rows = "".join(
            f"<tr><td>{SPLIT_TITLES[name]}</td><td>{len(dataset):,}</td></tr>" for name, dataset in self.splits.items()
        )
        classes = html.escape(", ".join(self.classes[:20]) + (", ..." if self.num_classes > 20 else ""))
        header = f"<b>{html.escape(self.name)}</b>: {self._outputs_text} ({classes})"
        return f"<p>{header}</p><table><tr><th>split</th><th>images</th></tr>{rows}</table>"

    def describe(self) -> str:
        """Return one line: `digits: 1,438 train, 359 test, 10 classes`."""
        parts = [f"{len(dataset):,} {name}" for name, dataset in self.splits.items()]
        return f"{self.name}: {', '.join(parts)}, {self._outputs_text}"


@dataclass(frozen=True, eq=False)
class DatasetListing:
    """The images at a path as far as they can be made out, listed without reading them, for `reslab data check`.

    `classes` and `task` are those of `DatasetSplits`. `unlabeled` has the images of a split outside of any class
    folder; `layout_error` is the error that training on this path would raise, or empty; `ignored` are the files that
    are not read, `messages` as of `DatasetSplits`; `task_reason` says why the task was inferred from the labels.
    """

    name: str
    location: str
    classes: tuple[str, ...]
    splits: Mapping[str, ImageDataset]
    unlabeled: Mapping[str, FileImageDataset] = field(default_factory=dict)
    layout_error: str = ""
    ignored: IgnoredFiles = field(default_factory=IgnoredFiles)
    messages: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    task_reason: str = ""


def float_range_messages(splits: Mapping[str, ImageDataset], is_recorded: bool = True) -> tuple[str, ...]:
    """Return a message for each split with float images from 0 to 255, which a network expects scaled.

    Unless `is_recorded`, also one for training images that were normalized by a mean and std that nobody records. Of
    datasets of items the first image is looked at.
    """
    messages = []
    for split, dataset in splits.items():
        if not len(dataset) or isinstance(dataset, FileImageDataset | ShardImageDataset):
            continue
        pixels = dataset.images if isinstance(dataset, TensorImageDataset) else dataset.load_image(0)
        if not pixels.is_floating_point():
            continue
        low, high = float(pixels.amin()), float(pixels.amax())
        text = f"{SPLIT_TITLES[split]} images are floats from {low:.4g} to {high:.4g}"
        if low >= 0 and _MAX_SCALED_PIXEL < high <= 255:
            messages.append(
                f"{text}, which are not scaled further: divide them by 255 and normalize them, or pass them in uint8"
            )
        elif low < 0 and split == "train" and not is_recorded:
            messages.append(
                f"{text}, normalized by a mean and std that the weights do not record: image files for `predict` and "
                "`serve` are not normalized; for them pass uint8, or floats from 0 to 1 with a `preprocess`"
            )
    return tuple(messages)


def compute_fingerprint(splits: Mapping[str, ImageDataset]) -> str:
    """Return the first 16 hex digits of a SHA-256 of every split's labels, images and targets.

    Images in memory count by their pixels, images in files by name and content (`file_digests`), in shards too. Images
    that a wrapped dataset makes on demand do not count, as they may differ from one call to the next. `-sampled`
    follows if a part of an image file had to stand for all of it.
    """
    digest, has_samples = hashlib.sha256(), False
    for name in sorted(splits):
        dataset = splits[name]
        digest.update(f"{name}:{len(dataset)};".encode())
        if isinstance(dataset, TargetImageDataset):
            digest.update(dataset.target_digest())
            dataset = dataset.images
        digest.update(np.ascontiguousarray(dataset.labels.numpy()).data)
        if isinstance(dataset, TensorImageDataset):
            digest.update(f"{dataset.images.dtype}{tuple(dataset.images.shape)}".encode())
            digest.update(_tensor_bytes(dataset.images))
        elif isinstance(dataset, FileImageDataset | ShardImageDataset):
            if isinstance(dataset, ShardImageDataset):
                hashes = [location.digest for location in dataset.locations]
            else:
                hashes = file_digests(dataset.paths)
            has_samples |= any(map(is_sampled, hashes))
            for i, content_hash in enumerate(hashes):
                image_name = os.fsencode(dataset.name(i))
                digest.update(f"{len(image_name)}:{dataset.num_bytes(i)}:{content_hash}\n".encode() + image_name)
    return digest.hexdigest()[:16] + "-sampled" * has_samples


def _tensor_bytes(images: Tensor) -> memoryview:
    return images.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(-1).data


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel of pixels / 255, rounded to 4 digits, for uint8 images (N, C, H, W)."""
    scaled = images.double() / 255
    mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3), correction=0)
    return tuple(round(value, 4) for value in mean.tolist()), tuple(round(value, 4) or 1.0 for value in std.tolist())
