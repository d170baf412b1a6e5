"""Batches: the samples of a step, augmented, normalised and mixed; and a split once through for evaluation.

Nothing here remembers anything: step t takes samples of the order that belongs to (seed, epoch), so an iterator started
at step t gives what one started at 0 gives from there on, with any number of workers, and any number of ranks together.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reslab.data.image_datasets import ImageDataset, ShardImageDataset, TensorImageDataset
from reslab.data.rng import hash_key, hash_keys
from reslab.data.sampler import StatelessSampler, StepIndices
from reslab.data.transforms.normalize import make_mean_tensor
from reslab.data.transforms.pipeline import TransformPipeline, parse_train_transform
from reslab.data.webdataset.stream import StreamLoader
from reslab.data.workers import load_batches
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

Batch = tuple[Tensor, Tensor, Tensor]


class TrainLoader:
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
        dataset: ImageDataset,
        batch_size: int,
        transform: str,
        preprocess: Preprocess,
        seed: int,
        device: torch.device | str,
        num_workers: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_repeats: int = 1,
        class_balanced: bool = False,
        num_classes: int | None = None,
    ) -> None:
        self.sampler = StatelessSampler(dataset.labels, batch_size, seed, num_repeats, class_balanced)
        _check_workers(num_workers)
        _check_rank(rank, world_size)
        self.transform, self.batch_mixer = parse_train_transform(transform)
        _check_batch_split(batch_size, world_size, self.batch_mixer is not None)
        self.dataset, self.batch_size, self.seed, self.num_workers = dataset, batch_size, seed, num_workers
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.normalize = Normalize(preprocess, self.device)
        self.num_steps_per_epoch, self.num_dropped = self.sampler.num_steps_per_epoch, self.sampler.num_dropped
        self.num_classes = _num_classes(dataset.labels, num_classes)
        self.stream_loader = (
            self._make_stream_loader() if isinstance(dataset, ShardImageDataset) and dataset.is_remote else None
        )
        if isinstance(dataset, TensorImageDataset):
            sample = self.normalize(dataset.images[:1].to(device)) if self.normalize.per_pixel else dataset.images[:1]
            self.transform.apply_batch(
                sample, torch.zeros(1, dtype=torch.int64, device=sample.device)
            )  # words that do not fit
        elif self.normalize.per_pixel:
            raise invalid("small pictures of one size for a mean of each pixel", "pictures in files")

    def iter_from(self, start_step: int = 0) -> Iterator[Batch]:
        """This rank's part of the batches of step `start_step`, `start_step` + 1, ... without end."""
        iter_batches = self._from_memory if isinstance(self.dataset, TensorImageDataset) else self._from_workers
        iter_batches = iter_batches if self.stream_loader is None else self._from_stream
        for step, (x, y, indices) in enumerate(iter_batches(start_step), start_step):
            if self.batch_mixer is None:
                yield x, y, indices
            else:
                yield *self.batch_mixer(x, y, self.num_classes, self.seed, step), indices

    def iter_indices(self, start_step: int = 0) -> Iterator[StepIndices]:
        """The samples of this rank's part of every step from `start_step` on, on the CPU."""
        local_batch_size = self.batch_size // self.world_size
        for step_indices in self.sampler.iter_indices(start_step):
            yield step_indices.slice_range(self.rank * local_batch_size, (self.rank + 1) * local_batch_size)

    def _make_stream_loader(self) -> StreamLoader:
        assert isinstance(self.dataset, ShardImageDataset)
        if self.sampler.num_repeats > 1 or self.sampler.class_balanced:
            next_step = "fetch the shards into a folder and name the folder, or set repeated_augmentation=1 and class_balanced_sampling=false"
            raise invalid("each sample once an epoch of shards by URL", "repeats or balanced", next_step=next_step)
        local_batch_size, steps_per_epoch = self.batch_size // self.world_size, self.num_steps_per_epoch
        rank_options = {"rank": self.rank, "world_size": self.world_size}
        loader = StreamLoader(
            self.dataset, self.transform, self.seed, local_batch_size, steps_per_epoch, self.num_workers, **rank_options
        )
        loader.check_num_shards()
        return loader

    def _from_stream(self, start_step: int) -> Iterator[Batch]:
        assert self.stream_loader is not None
        for x, y, indices in self.stream_loader.iter_from(start_step, self.device):
            yield self.normalize(x), y, indices

    def _from_memory(self, start_step: int) -> Iterator[Batch]:
        assert isinstance(self.dataset, TensorImageDataset)
        pixels, labels = self.dataset.images.to(self.device), self.dataset.labels.to(self.device)
        for step_indices in self.iter_indices(start_step):
            indices = step_indices.indices.to(self.device, non_blocking=True)
            batch_pixels = pixels.index_select(0, indices)  # on a CPU far faster than pixels[indices]
            augmentation_keys = step_indices.augmentation_keys(self.seed, self.device)
            if self.normalize.per_pixel:  # each pixel loses its own mean before it is moved elsewhere
                x = self.transform.apply_batch(self.normalize(batch_pixels), augmentation_keys)
            else:
                x = self.normalize(self.transform.apply_batch(batch_pixels, augmentation_keys))
            yield x, labels[indices], indices

    def _from_workers(self, start_step: int) -> Iterator[Batch]:
        cpu = torch.device("cpu")
        keyed_batches = (
            list(
                zip(step_indices.indices.tolist(), step_indices.augmentation_keys(self.seed, cpu).tolist(), strict=True)
            )
            for step_indices in self.iter_indices(start_step)
        )
        for x, y, indices in load_batches(self.dataset, keyed_batches, self.transform, self.num_workers, self.device):
            yield self.normalize(x), y, indices


def eval_loader(
    dataset: ImageDataset,
    batch_size: int,
    preprocess: Preprocess,
    device: torch.device | str,
    num_workers: int = 0,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every sample once, in order, as (x, y, indices) like `TrainBatches`; the last batch is as long as what is left.

    Rank r gets the batches r, r + num_ranks, ... of one rank's, whole: no sample twice, none missing, and each batch
    computed as it would be alone; where there are fewer batches than ranks, some rank has none.
    Raises ValueError where `preprocess.words` do not fit the pictures or leave them of several sizes.
    """
    if batch_size < 1:
        raise invalid("a batch of at least 1 sample", batch_size, nearest="1")
    _check_workers(num_workers)
    _check_rank(rank, world_size)
    device, transform = torch.device(device), TransformPipeline(preprocess.transform)
    normalize = Normalize(preprocess, device)
    starts = range(rank * batch_size, len(dataset), world_size * batch_size)
    if isinstance(dataset, TensorImageDataset):
        return _eval_from_memory(dataset, starts, batch_size, transform, normalize)
    keyed_batches = (
        [(i, hash_key(0, 0, i)) for i in range(start, min(start + batch_size, len(dataset)))] for start in starts
    )
    return (
        (normalize(x), y, indices)
        for x, y, indices in load_batches(dataset, keyed_batches, transform, num_workers, device)
    )


def _eval_from_memory(
    dataset: TensorImageDataset, starts: range, batch_size: int, transform: TransformPipeline, normalize: "Normalize"
) -> Iterator[Batch]:
    device = normalize.device
    for start in starts:
        batch_slice = slice(start, min(start + batch_size, len(dataset)))
        indices = torch.arange(batch_slice.start, batch_slice.stop, device=device)
        x = transform.apply_batch(dataset.images[batch_slice].to(device), hash_keys(0, 0, indices))
        yield normalize(x), dataset.labels[batch_slice].to(device), indices


class Normalize:
    """(x / 255 - mean) / std per channel in float32, on the device; floats are taken as already divided.

    Where the preprocessing has a mean of each pixel, that is subtracted. Raises ValueError where the pictures have
    another number of channels, or another size than that mean.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.device, self.channels = device, preprocess.channels
        self.mean = make_mean_tensor(preprocess, device)
        self.std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)[:, None, None]
        self.per_pixel = bool(preprocess.mean_image)

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.channels:
            raise invalid(f"pictures of {self.channels} channels", f"{images.shape[1]} channels")
        if self.per_pixel and images.shape[2:] != self.mean.shape[1:]:
            sizes = ["x".join(map(str, shape[-2:])) for shape in (self.mean.shape, images.shape)]
            raise invalid(f"pictures of {sizes[0]} for a mean of each pixel", sizes[1], f"words that end at {sizes[0]}")
        if images.dtype == torch.uint8:
            return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)
        return images.to(torch.float32).sub(self.mean).div_(self.std)


def _num_classes(labels: Tensor, num_classes: int | None) -> int:
    min_classes = int(labels.max()) + 1
    if num_classes is not None and num_classes < min_classes:
        raise invalid(
            f"at least {min_classes} classes for labels up to {min_classes - 1}", num_classes, nearest=str(min_classes)
        )
    return num_classes or min_classes


def _check_workers(num_workers: int) -> None:
    if num_workers < 0:
        raise invalid("0 or more workers", num_workers, nearest="0")


def _check_rank(rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise invalid("a rank from 0 to num_ranks - 1", f"rank {rank} of {world_size}", nearest="rank 0 of 1")


def _check_batch_split(batch_size: int, world_size: int, mixes_pairs: bool) -> None:
    """Ranks share a batch evenly, and where pictures are mixed two by two no pair is torn apart."""
    divisor = world_size * (2 if mixes_pairs and world_size > 1 else 1)
    if batch_size % divisor:
        even_text = ", an even number each (pictures are mixed two by two)" if divisor > world_size else ""
        suggestion = max(divisor, round(batch_size / divisor) * divisor)
        raise invalid(
            f"a batch that {world_size} ranks share evenly{even_text}",
            f"a batch of {batch_size}",
            nearest=str(suggestion),
        )
