"""Batches: which samples a step trains on, augmented and normalised; and a split once through for evaluation.

Nothing here remembers anything: step t takes samples of the order that belongs to (seed, epoch), so an iterator started
at step t gives what one started at 0 gives from there on, with any number of workers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reslab.data.augment import Augment
from reslab.data.chance import key, keys, permutation
from reslab.data.images import Images, TensorImages
from reslab.data.stream import stream
from reslab.spec.errors import refuse
from reslab.spec.preprocess import Preprocess

Batch = tuple[Tensor, Tensor, Tensor]


class TrainBatches:
    """Endless training batches (x, y, indices): float32 (batch, C, H, W) normalised, int64 (batch,), int64 (batch,).

    Step t is step t mod n of epoch t // n, n = `num_steps_per_epoch`; the `dropped` samples at an epoch's end, which
    fill no batch, are left out (others each epoch). Pictures in memory stay on `device` and are augmented there, a
    batch at once; all others are read and augmented by `workers` processes (0: in this one).
    Raises ValueError where the batch is larger than the data, or the words do not fit the pictures.
    """

    def __init__(
        self,
        images: Images,
        batch: int,
        words: str,
        preprocess: Preprocess,
        seed: int,
        device: torch.device | str,
        workers: int = 0,
    ) -> None:
        _check_batch(batch, len(images))
        _check_workers(workers)
        self.images, self.batch, self.seed, self.workers = images, batch, seed, workers
        self.device = torch.device(device)
        self.augment = Augment(words)
        self.normalise = Normalise(preprocess, self.device)
        self.num_steps_per_epoch = len(images) // batch
        self.dropped = len(images) % batch
        if isinstance(images, TensorImages):
            self.augment.batch(images.images[:1], torch.zeros(1, dtype=torch.int64))  # words that do not fit fail here

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """The batches of step `start_step`, `start_step` + 1, ... without end."""
        if isinstance(self.images, TensorImages):
            return self._resident(self.images, start_step)
        return self._streamed(start_step)

    def plan(self, start_step: int = 0) -> Iterator[tuple[int, Tensor]]:
        """(epoch, indices) of every step from `start_step` on, indices (batch,) int64 on the CPU."""
        epoch, step = divmod(start_step, self.num_steps_per_epoch)
        while True:
            order = permutation(len(self.images), self.seed, epoch)
            for first in range(step * self.batch, self.num_steps_per_epoch * self.batch, self.batch):
                yield epoch, order[first : first + self.batch]
            epoch, step = epoch + 1, 0

    def _resident(self, images: TensorImages, start_step: int) -> Iterator[Batch]:
        pixels, labels = images.images.to(self.device), images.labels.to(self.device)
        for epoch, chosen in self.plan(start_step):
            indices = chosen.to(self.device, non_blocking=True)
            chosen_pixels = pixels.index_select(0, indices)  # on a CPU far faster than pixels[indices]
            x = self.augment.batch(chosen_pixels, keys(self.seed, epoch, indices))
            yield self.normalise(x), labels[indices], indices

    def _streamed(self, start_step: int) -> Iterator[Batch]:
        asked = ([(i, key(self.seed, epoch, i)) for i in indices.tolist()] for epoch, indices in self.plan(start_step))
        for x, y, indices in stream(self.images, asked, self.augment, self.workers, self.device):
            yield self.normalise(x), y, indices


def eval_batches(
    images: Images, batch: int, preprocess: Preprocess, device: torch.device | str, workers: int = 0
) -> Iterator[Batch]:
    """Every sample once, in order, as (x, y, indices) like `TrainBatches`; the last batch is as long as what is left.

    Raises ValueError where `preprocess.words` do not fit the pictures or leave them of several sizes.
    """
    if batch < 1:
        raise refuse("a batch of at least 1 sample", batch, nearest="1")
    _check_workers(workers)
    device, augment = torch.device(device), Augment(preprocess.words)
    normalise = Normalise(preprocess, device)
    if isinstance(images, TensorImages):
        return _resident_eval(images, batch, augment, normalise)
    starts = range(0, len(images), batch)
    asked = ([(i, key(0, 0, i)) for i in range(first, min(first + batch, len(images)))] for first in starts)
    return ((normalise(x), y, indices) for x, y, indices in stream(images, asked, augment, workers, device))


def _resident_eval(images: TensorImages, batch: int, augment: Augment, normalise: "Normalise") -> Iterator[Batch]:
    device = normalise.device
    for first in range(0, len(images), batch):
        part = slice(first, min(first + batch, len(images)))
        here = torch.arange(part.start, part.stop, device=device)
        x = augment.batch(images.images[part].to(device), keys(0, 0, here))
        yield normalise(x), images.labels[part].to(device), here


class Normalise:
    """(x / 255 - mean) / std per channel in float32, on the device; floats are taken as already divided.

    Raises ValueError where the pictures have another number of channels than the preprocessing.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.device, self.channels = device, preprocess.channels
        self.mean = torch.tensor(preprocess.mean, dtype=torch.float32, device=device)[:, None, None]
        self.std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.channels:
            raise refuse(f"pictures of {self.channels} channels", f"{images.shape[1]} channels")
        if images.dtype == torch.uint8:
            return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)
        return images.to(torch.float32).sub(self.mean).div_(self.std)


def _check_batch(batch: int, num_samples: int) -> None:
    if batch < 1:
        raise refuse("a batch of at least 1 sample", batch, nearest="1")
    if batch > num_samples:
        raise refuse(
            f"a batch of at most the {num_samples} training samples (an incomplete batch is dropped)",
            f"a batch of {batch}",
            nearest=str(num_samples),
            next_step=f"set the batch to {num_samples} or less",
        )


def _check_workers(workers: int) -> None:
    if workers < 0:
        raise refuse("0 or more workers", workers, nearest="0")
