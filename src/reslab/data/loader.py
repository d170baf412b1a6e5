"""Batches: the samples of a step, augmented, normalised and mixed; and a split once through for evaluation.

Nothing here remembers anything: step t takes samples of the order that belongs to (seed, epoch), so an iterator started
at step t gives what one started at 0 gives from there on, with any number of workers, and any number of ranks together.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reslab.data.image_datasets import Images, ShardImages, TensorImages
from reslab.data.rng import key, keys
from reslab.data.sampler import Draw, Sampling
from reslab.data.transforms.normalize import mean_of
from reslab.data.transforms.pipeline import Augment, split_sentence
from reslab.data.webdataset.stream import Flow
from reslab.data.workers import stream
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

Batch = tuple[Tensor, Tensor, Tensor]


class TrainBatches:
    """Endless training batches (x, y, indices): float32 (n, C, H, W) normalised, int64 (n,), int64 (n,).

    Step t is step t mod k of epoch t // k, k = `num_steps_per_epoch`; the `dropped` samples at an epoch's end, which
    fill no batch, are left out (others each epoch). `batch` is the global batch: rank r of `num_ranks` gets its r-th
    part, of n = batch / num_ranks samples. `repeats` and `balanced` are those of `Sampling`. Where `words` end in
    mixup or cutmix, y is float32 (n, num_classes), each row of sum 1; untold, `num_classes` is the largest label + 1.
    Pictures in memory stay on `device` and are augmented there, a batch at once; all others are read and augmented by
    `workers` processes (0: in this one). Of shards by URL the samples of a step depend on ranks and workers (`flow`).
    Raises ValueError where the batch is larger than the data or not to be shared, or words do not fit the pictures.
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
        *,
        rank: int = 0,
        num_ranks: int = 1,
        repeats: int = 1,
        balanced: bool = False,
        num_classes: int | None = None,
    ) -> None:
        self.sampling = Sampling(images.labels, batch, seed, repeats, balanced)
        _check_workers(workers)
        _check_rank(rank, num_ranks)
        self.augment, self.mixing = split_sentence(words)
        _check_share(batch, num_ranks, self.mixing is not None)
        self.images, self.batch, self.seed, self.workers = images, batch, seed, workers
        self.rank, self.num_ranks = rank, num_ranks
        self.device = torch.device(device)
        self.normalise = Normalise(preprocess, self.device)
        self.num_steps_per_epoch, self.dropped = self.sampling.num_steps_per_epoch, self.sampling.dropped
        self.num_classes = _num_classes(images.labels, num_classes)
        self.flow = self._flow() if isinstance(images, ShardImages) and images.by_url else None
        if isinstance(images, TensorImages):
            first = self.normalise(images.images[:1].to(device)) if self.normalise.each_pixel else images.images[:1]
            self.augment.batch(first, torch.zeros(1, dtype=torch.int64, device=first.device))  # words that do not fit
        elif self.normalise.each_pixel:
            raise invalid("small pictures of one size for a mean of each pixel", "pictures in files")

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """This rank's part of the batches of step `start_step`, `start_step` + 1, ... without end."""
        batches = self._resident if isinstance(self.images, TensorImages) else self._streamed
        batches = batches if self.flow is None else self._flowed
        for step, (x, y, indices) in enumerate(batches(start_step), start_step):
            if self.mixing is None:
                yield x, y, indices
            else:
                yield *self.mixing(x, y, self.num_classes, self.seed, step), indices

    def plan(self, start_step: int = 0) -> Iterator[Draw]:
        """The samples of this rank's part of every step from `start_step` on, on the CPU."""
        share = self.batch // self.num_ranks
        for draw in self.sampling.plan(start_step):
            yield draw.part(self.rank * share, (self.rank + 1) * share)

    def _flow(self) -> Flow:
        assert isinstance(self.images, ShardImages)
        if self.sampling.repeats > 1 or self.sampling.balanced:
            step = "fetch the shards into a folder and name the folder, or set repeated_augmentation=1 and class_balanced_sampling=false"
            raise invalid("each sample once an epoch of shards by URL", "repeats or balanced", next_step=step)
        share, per_epoch = self.batch // self.num_ranks, self.num_steps_per_epoch
        ranks = {"rank": self.rank, "num_ranks": self.num_ranks}
        flow = Flow(self.images, self.augment, self.seed, share, per_epoch, self.workers, **ranks)
        flow.check()
        return flow

    def _flowed(self, start_step: int) -> Iterator[Batch]:
        assert self.flow is not None
        for x, y, indices in self.flow.batches(start_step, self.device):
            yield self.normalise(x), y, indices

    def _resident(self, start_step: int) -> Iterator[Batch]:
        assert isinstance(self.images, TensorImages)
        pixels, labels = self.images.images.to(self.device), self.images.labels.to(self.device)
        for draw in self.plan(start_step):
            indices = draw.indices.to(self.device, non_blocking=True)
            chosen_pixels = pixels.index_select(0, indices)  # on a CPU far faster than pixels[indices]
            drawn = draw.keys(self.seed, self.device)
            if self.normalise.each_pixel:  # each pixel loses its own mean before it is moved elsewhere
                x = self.augment.batch(self.normalise(chosen_pixels), drawn)
            else:
                x = self.normalise(self.augment.batch(chosen_pixels, drawn))
            yield x, labels[indices], indices

    def _streamed(self, start_step: int) -> Iterator[Batch]:
        cpu = torch.device("cpu")
        asked = (
            list(zip(draw.indices.tolist(), draw.keys(self.seed, cpu).tolist(), strict=True))
            for draw in self.plan(start_step)
        )
        for x, y, indices in stream(self.images, asked, self.augment, self.workers, self.device):
            yield self.normalise(x), y, indices


def eval_batches(
    images: Images,
    batch: int,
    preprocess: Preprocess,
    device: torch.device | str,
    workers: int = 0,
    *,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Batch]:
    """Every sample once, in order, as (x, y, indices) like `TrainBatches`; the last batch is as long as what is left.

    Rank r gets the batches r, r + num_ranks, ... of one rank's, whole: no sample twice, none missing, and each batch
    computed as it would be alone; where there are fewer batches than ranks, some rank has none.
    Raises ValueError where `preprocess.words` do not fit the pictures or leave them of several sizes.
    """
    if batch < 1:
        raise invalid("a batch of at least 1 sample", batch, nearest="1")
    _check_workers(workers)
    _check_rank(rank, num_ranks)
    device, augment = torch.device(device), Augment(preprocess.transform)
    normalise = Normalise(preprocess, device)
    starts = range(rank * batch, len(images), num_ranks * batch)
    if isinstance(images, TensorImages):
        return _resident_eval(images, starts, batch, augment, normalise)
    asked = ([(i, key(0, 0, i)) for i in range(first, min(first + batch, len(images)))] for first in starts)
    return ((normalise(x), y, indices) for x, y, indices in stream(images, asked, augment, workers, device))


def _resident_eval(
    images: TensorImages, starts: range, batch: int, augment: Augment, normalise: "Normalise"
) -> Iterator[Batch]:
    device = normalise.device
    for first in starts:
        part = slice(first, min(first + batch, len(images)))
        here = torch.arange(part.start, part.stop, device=device)
        x = augment.batch(images.images[part].to(device), keys(0, 0, here))
        yield normalise(x), images.labels[part].to(device), here


class Normalise:
    """(x / 255 - mean) / std per channel in float32, on the device; floats are taken as already divided.

    Where the preprocessing has a mean of each pixel, that is subtracted. Raises ValueError where the pictures have
    another number of channels, or another size than that mean.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.device, self.channels = device, preprocess.channels
        self.mean = mean_of(preprocess, device)
        self.std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)[:, None, None]
        self.each_pixel = bool(preprocess.mean_image)

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.channels:
            raise invalid(f"pictures of {self.channels} channels", f"{images.shape[1]} channels")
        if self.each_pixel and images.shape[2:] != self.mean.shape[1:]:
            sizes = ["x".join(map(str, shape[-2:])) for shape in (self.mean.shape, images.shape)]
            raise invalid(f"pictures of {sizes[0]} for a mean of each pixel", sizes[1], f"words that end at {sizes[0]}")
        if images.dtype == torch.uint8:
            return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)
        return images.to(torch.float32).sub(self.mean).div_(self.std)


def _num_classes(labels: Tensor, told: int | None) -> int:
    least = int(labels.max()) + 1
    if told is not None and told < least:
        raise invalid(f"at least {least} classes for labels up to {least - 1}", told, nearest=str(least))
    return told or least


def _check_workers(workers: int) -> None:
    if workers < 0:
        raise invalid("0 or more workers", workers, nearest="0")


def _check_rank(rank: int, num_ranks: int) -> None:
    if num_ranks < 1 or not 0 <= rank < num_ranks:
        raise invalid("a rank from 0 to num_ranks - 1", f"rank {rank} of {num_ranks}", nearest="rank 0 of 1")


def _check_share(batch: int, num_ranks: int, mixes: bool) -> None:
    """Ranks share a batch evenly, and where pictures are mixed two by two no pair is torn apart."""
    parts = num_ranks * (2 if mixes and num_ranks > 1 else 1)
    if batch % parts:
        even = ", an even number each (pictures are mixed two by two)" if parts > num_ranks else ""
        near = max(parts, round(batch / parts) * parts)
        raise invalid(f"a batch that {num_ranks} ranks share evenly{even}", f"a batch of {batch}", nearest=str(near))
