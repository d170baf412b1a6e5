"""Pictures read and augmented as they are needed, in worker processes, in order."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reslab.data.image_datasets import ImageDataset, WrappedImageDataset
from reslab.data.rng import temporary_seed
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.errors import invalid

KeyedIndex = tuple[int, int]
"""A sample's index and its key: all that its pixels depend on."""


@dataclass(frozen=True)
class LoadedImage:
    """A picture that was read and augmented, or why it could not be."""

    pixels: Tensor | None
    index: int
    error: str = ""


class _WorkerDataset(Dataset[LoadedImage]):
    """The pictures as torch's loader wants them, asked for by (index, key)."""

    def __init__(self, dataset: ImageDataset, transform: TransformPipeline) -> None:
        self.dataset, self.transform = dataset, transform

    def __getitems__(self, keyed_indices: list[KeyedIndex]) -> list[LoadedImage]:
        """A whole batch: the random numbers are drawn together, the pictures read one by one."""
        transforms = self.transform.bind_keys(torch.tensor([key for _, key in keyed_indices]))
        return [
            self._load(index, key, apply_transform)
            for (index, key), apply_transform in zip(keyed_indices, transforms, strict=True)
        ]

    def __getitem__(self, keyed_index: KeyedIndex) -> LoadedImage:
        return self.__getitems__([keyed_index])[0]

    def _load(self, index: int, key: int, apply_transform: Callable[[Tensor], Tensor]) -> LoadedImage:
        try:
            return LoadedImage(apply_transform(self._decode(index, key)), index)
        except ValueError as error:  # told by the main process without a worker's traceback around it
            name = self.dataset.name(index)
            return LoadedImage(None, index, str(error) if name in str(error) else f"{name}: {error}")

    def _decode(self, index: int, key: int) -> Tensor:
        if not isinstance(self.dataset, WrappedImageDataset):
            return self.dataset.load_image(index)
        with temporary_seed(key):  # somebody's data set may draw from the global generators
            return self.dataset.load_image(index)


@dataclass(frozen=True)
class Collate:
    """Samples to (pixels, indices), or the first error's text; a value, so that it can be sent to a worker."""

    dataset: ImageDataset

    def __call__(self, samples: list[LoadedImage]) -> tuple[Tensor | str, Tensor]:
        indices = torch.tensor([sample.index for sample in samples])
        errors = [sample.error for sample in samples if sample.error]
        if errors:
            return errors[0], indices
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        shapes = [image.shape for image in pixels]
        mismatch = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if mismatch is None:
            return torch.stack(pixels), indices
        sizes = [f"{self.dataset.name(samples[k].index)} of {'x'.join(map(str, shapes[k]))}" for k in (0, mismatch)]
        hint = "add words such as 'resize(256) center-crop(224)' or 'random-resized-crop(224)'"
        return str(
            invalid("pictures of one size and channels in a batch", " beside ".join(sizes), next_step=hint)
        ), indices


def load_batches(
    dataset: ImageDataset,
    keyed_batches: Iterable[list[KeyedIndex]],
    transform: TransformPipeline,
    num_workers: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For every list of (index, key): (pixels, labels, indices) on the device, as asked; two batches ahead a worker.

    The workers live as long as the iterator, which for training is the whole run.
    Raises ValueError naming a picture that cannot be read, or two of different sizes.
    """
    for pixels, indices in iter_quietly(
        lambda: _make_data_loader(dataset, keyed_batches, transform, num_workers, device)
    ):
        if isinstance(pixels, str):
            raise ValueError(pixels)
        labels = dataset.labels[indices].to(device, non_blocking=True)
        yield pixels.to(device, non_blocking=True), labels, indices.to(device, non_blocking=True)


def _make_data_loader(
    dataset: ImageDataset, keyed_batches: Any, transform: TransformPipeline, num_workers: int, device: torch.device
) -> "DataLoader[LoadedImage]":
    return DataLoader(
        _WorkerDataset(dataset, transform),
        batch_sampler=keyed_batches,
        num_workers=num_workers,
        collate_fn=Collate(dataset),
        pin_memory=device.type == "cuda",
        worker_init_fn=detach_worker,
        generator=torch.Generator(),  # its own, or the loader draws its base seed from the global one
    )


def detach_worker(worker_id: int) -> None:
    """A group of its own: Ctrl-C in a terminal and torchrun's signals are for the process that is read for, which may
    want this step's pictures before it stops; a worker goes when that one does."""
    with contextlib.suppress(AttributeError, OSError):  # not every system has groups
        os.setpgid(0, 0)


def iter_quietly(make_loader: Callable[[], "DataLoader[Any]"]) -> Iterator[Any]:
    """What a loader yields, the loader made and begun without warnings about the user's own choices."""
    with warnings.catch_warnings():
        # More workers than processors is the user's choice.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        # Python 3.12 warns of every fork of a process with threads, which torch always has.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return iter(make_loader())
