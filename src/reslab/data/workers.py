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

from reslab.data.image_datasets import Images, ItemImages
from reslab.data.rng import seeded
from reslab.data.transforms.pipeline import Augment
from reslab.spec.errors import invalid

Asked = tuple[int, int]
"""A sample's index and its key: all that its pixels depend on."""


@dataclass(frozen=True)
class Read:
    """A picture that was read and augmented, or why it could not be."""

    pixels: Tensor | None
    index: int
    error: str = ""


class _Reading(Dataset[Read]):
    """The pictures as torch's loader wants them, asked for by (index, key)."""

    def __init__(self, images: Images, augment: Augment) -> None:
        self.images, self.augment = images, augment

    def __getitems__(self, asked: list[Asked]) -> list[Read]:
        """A whole batch: the random numbers are drawn together, the pictures read one by one."""
        augmented = self.augment.each(torch.tensor([key for _, key in asked]))
        return [self._read(index, key, one) for (index, key), one in zip(asked, augmented, strict=True)]

    def __getitem__(self, asked: Asked) -> Read:
        return self.__getitems__([asked])[0]

    def _read(self, index: int, key: int, augmented: Callable[[Tensor], Tensor]) -> Read:
        try:
            return Read(augmented(self._pixels(index, key)), index)
        except ValueError as error:  # told by the main process without a worker's traceback around it
            name = self.images.name(index)
            return Read(None, index, str(error) if name in str(error) else f"{name}: {error}")

    def _pixels(self, index: int, key: int) -> Tensor:
        if not isinstance(self.images, ItemImages):
            return self.images.pixels(index)
        with seeded(key):  # somebody's data set may draw from the global generators
            return self.images.pixels(index)


@dataclass(frozen=True)
class Stacking:
    """Samples to (pixels, indices), or the first error's text; a value, so that it can be sent to a worker."""

    images: Images

    def __call__(self, samples: list[Read]) -> tuple[Tensor | str, Tensor]:
        indices = torch.tensor([sample.index for sample in samples])
        errors = [sample.error for sample in samples if sample.error]
        if errors:
            return errors[0], indices
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        shapes = [picture.shape for picture in pixels]
        other = next((place for place, shape in enumerate(shapes) if shape != shapes[0]), None)
        if other is None:
            return torch.stack(pixels), indices
        sizes = [f"{self.images.name(samples[k].index)} of {'x'.join(map(str, shapes[k]))}" for k in (0, other)]
        advice = "add words such as 'resize(256) center-crop(224)' or 'random-resized-crop(224)'"
        return str(
            invalid("pictures of one size and channels in a batch", " beside ".join(sizes), next_step=advice)
        ), indices


def stream(
    images: Images, asked: Iterable[list[Asked]], augment: Augment, workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For every list of (index, key): (pixels, labels, indices) on the device, as asked; two batches ahead a worker.

    The workers live as long as the iterator, which for training is the whole run.
    Raises ValueError naming a picture that cannot be read, or two of different sizes.
    """
    for pixels, indices in started(lambda: _loader(images, asked, augment, workers, device)):
        if isinstance(pixels, str):
            raise ValueError(pixels)
        labels = images.labels[indices].to(device, non_blocking=True)
        yield pixels.to(device, non_blocking=True), labels, indices.to(device, non_blocking=True)


def _loader(images: Images, asked: Any, augment: Augment, workers: int, device: torch.device) -> "DataLoader[Read]":
    return DataLoader(
        _Reading(images, augment),
        batch_sampler=asked,
        num_workers=workers,
        collate_fn=Stacking(images),
        pin_memory=device.type == "cuda",
        worker_init_fn=apart,
        generator=torch.Generator(),  # its own, or the loader draws its base seed from the global one
    )


def apart(worker: int) -> None:
    """A group of its own: Ctrl-C in a terminal and torchrun's signals are for the process that is read for, which may
    want this step's pictures before it stops; a worker goes when that one does."""
    with contextlib.suppress(AttributeError, OSError):  # not every system has groups
        os.setpgid(0, 0)


def started(make: Callable[[], "DataLoader[Any]"]) -> Iterator[Any]:
    """What a loader yields, the loader made and begun without warnings about the user's own choices."""
    with warnings.catch_warnings():
        # More workers than processors is the user's choice.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        # Python 3.12 warns of every fork of a process with threads, which torch always has.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return iter(make())
