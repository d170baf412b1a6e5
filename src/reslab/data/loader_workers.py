"""The worker processes of a loader: they read, decode and transform images and join them into batches."""

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from reslab.data.decode import read_image
from reslab.data.image_datasets import FileImageDataset, ImageDataset, ShardImageDataset, WrappedImageDataset
from reslab.data.jpeg import has_torchvision_decoder
from reslab.data.rng import RandomDraws, augmentation_keys, temporary_seed
from reslab.data.sampler import StepIndices
from reslab.data.target_datasets import TargetImageDataset
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.data.webdataset.remote import iter_epoch_samples
from reslab.spec.errors import invalid

Batch = tuple[Any, Any, Tensor]


KeyedIndex = tuple[int, int]
"""A sample's index and its key, a hash: its pixels depend on nothing else."""


@dataclass(frozen=True)
class LoadedImage:
    """An image that a worker read and transformed, with its target if it has one; or the reason why it could not."""

    pixels: Tensor | None
    index: int
    error: str = ""
    target: Any = None


class LoadedBatch(NamedTuple):
    """A batch as it comes from a worker; or the first error in it, which the main process raises.

    Raising it in the worker would wrap it into the worker's traceback. A named tuple, because torch's loader copies
    those to pinned memory.
    """

    pixels: Tensor | list[Tensor] | None
    indices: Tensor
    error: str = ""
    targets: Any = None


def keyed_indices(step_indices: StepIndices, seed: int, alternates: bool = False) -> list[KeyedIndex]:
    """Return the index and the augmentation key (`StepIndices.augmentation_keys`) of each sample of a step."""
    keys = step_indices.augmentation_keys(seed, torch.device("cpu"), alternates)
    return list(zip(step_indices.indices.tolist(), keys.tolist(), strict=True))


def load_batches(
    dataset: ImageDataset,
    keyed_batches: Iterable[list[KeyedIndex]],
    transform: TransformPipeline,
    num_workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield (pixels, labels, indices) on the device for every list of (index, key), in order, two ahead a worker.

    The workers live as long as the iterator, which for training is the whole run.
    Raises ValueError naming an image that cannot be read, or two of different sizes.
    """
    for batch in start_data_loader(
        MapWorker(dataset, transform),
        device,
        batch_sampler=keyed_batches,
        num_workers=num_workers,
        collate_fn=partial(_collate, dataset),
    ):
        yield to_device(batch, dataset.labels, device)


def start_data_loader(dataset: Dataset[Any], device: torch.device, **options: Any) -> Iterator[LoadedBatch]:
    """Return an iterator over a torch DataLoader, whose workers run until the iterator is deleted."""
    if options["num_workers"]:
        has_torchvision_decoder()  # imports it once here, not in every worker process
    with warnings.catch_warnings():
        # The user chooses the number of workers, also if it is larger than the number of processors.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        # Python 3.12 warns of every fork of a process with threads, which torch always has.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        loader: DataLoader[LoadedBatch] = DataLoader(
            dataset,
            pin_memory=device.type == "cuda",
            worker_init_fn=_detach_worker,
            generator=torch.Generator(),  # its own, or the loader draws its base seed from the global generator
            **options,
        )
        return iter(loader)


def _detach_worker(worker_id: int) -> None:
    """Put the worker into its own process group.

    So Ctrl-C and the signals of torchrun reach only the trainer, which may still need this batch; a worker ends when
    its trainer does.
    """
    with contextlib.suppress(AttributeError, OSError):  # not every system has process groups
        os.setpgid(0, 0)


def to_device(batch: LoadedBatch, labels: Tensor, device: torch.device) -> Batch:
    """Return a batch as (pixels, targets, indices) on the device. Raises ValueError with the error of a worker."""
    if batch.pixels is None:
        raise ValueError(batch.error)
    pixels, indices = batch.pixels, batch.indices
    targets = labels[indices] if batch.targets is None else batch.targets
    y = tree_map(lambda part: part.to(device, non_blocking=True) if isinstance(part, Tensor) else part, targets)
    if batch.targets is not None and isinstance(y, Tensor):
        y = y.to(torch.int64)  # masks travel in uint8, an eighth of the bytes
    x = tree_map(lambda image: image.to(device, non_blocking=True), pixels)
    return x, y, indices.to(device, non_blocking=True)


def _collate(dataset: ImageDataset, images: Sequence[LoadedImage]) -> LoadedBatch:
    indices = torch.tensor([image.index for image in images])
    error = next((image.error for image in images if image.error), "")
    if error:
        return LoadedBatch(None, indices, error)
    pixels = [image.pixels for image in images if image.pixels is not None]
    if isinstance(dataset, TargetImageDataset) and dataset.has_listed_batches:
        return LoadedBatch(pixels, indices, targets=dataset.collate_targets([image.target for image in images]))
    shapes = [image.shape for image in pixels]
    mismatch = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if mismatch is None:
        targets = None
        if isinstance(dataset, TargetImageDataset):
            targets = dataset.collate_targets([image.target for image in images])
        return LoadedBatch(torch.stack(pixels), indices, targets=targets)
    sizes = [f"{dataset.name(images[k].index)} of {'x'.join(map(str, shapes[k]))}" for k in (0, mismatch)]
    next_step = "give one size, --size 224 (image_size=224), or a transform such as 'resize(256) center-crop(224)'"
    if len({shape[0] for shape in shapes}) > 1:
        next_step = "convert them to one number of channels"
    size_error = invalid(
        "images of one size and number of channels in a batch", " and ".join(sizes), next_step=next_step
    )
    return LoadedBatch(None, indices, str(size_error))


class MapWorker(Dataset[LoadedImage]):
    """Read and transform images by (index, key), a batch at a time."""

    def __init__(self, dataset: ImageDataset, transform: TransformPipeline) -> None:
        self.dataset, self.transform = dataset, transform

    def __getitems__(self, keyed_indices: list[KeyedIndex]) -> list[LoadedImage]:
        draws = self.transform.sample_draws(torch.tensor([key for _, key in keyed_indices]))
        return [self._load(*keyed, image_draws) for keyed, image_draws in zip(keyed_indices, draws, strict=True)]

    def __getitem__(self, keyed_index: KeyedIndex) -> LoadedImage:
        return self.__getitems__([keyed_index])[0]

    def _load(self, index: int, key: int, draws: Sequence[RandomDraws]) -> LoadedImage:
        dataset, target = self.dataset, None
        source = dataset.images if isinstance(dataset, TargetImageDataset) else dataset
        try:
            # A wrapped dataset may draw from the global generators.
            with temporary_seed(key) if isinstance(source, WrappedImageDataset) else contextlib.nullcontext():
                if isinstance(dataset, TargetImageDataset):
                    image, target = dataset.load_sample(index)
                elif isinstance(dataset, FileImageDataset | ShardImageDataset):
                    image = dataset.load_image(index, self.transform.choose_scale(draws))
                else:
                    image = dataset.load_image(index)
            if not isinstance(dataset, TargetImageDataset):
                return LoadedImage(self.transform.apply_draws(image, draws), index)
            pixels, moved = self.transform.apply_sample_draws(image, target, draws)
            return LoadedImage(pixels, index, target=dataset.finish_target(moved))
        except ValueError as error:
            return LoadedImage(None, index, _with_name(error, self.dataset.name(index)))


def _with_name(error: ValueError, name: str) -> str:
    return str(error) if name in str(error) else f"{name}: {error}"


class StreamWorker(IterableDataset[LoadedBatch]):
    """Read shards by URL and make this worker's share of the batches: step t belongs to worker t mod num_workers."""

    def __init__(
        self,
        dataset: ShardImageDataset,
        transform: TransformPipeline,
        seed: int,
        start_step: int,
        *,
        local_batch_size: int,
        num_steps_per_epoch: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.dataset, self.transform, self.seed, self.start_step = dataset, transform, seed, start_step
        self.local_batch_size, self.num_steps_per_epoch = local_batch_size, num_steps_per_epoch
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[LoadedBatch]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        # torch's loader takes from its workers in turn, beginning with the first. After a resume that one plays the
        # worker whose turn it would be in an uninterrupted run.
        worker = (self.start_step + worker) % num_workers
        try:
            for epoch in itertools.count(self.start_step // self.num_steps_per_epoch):
                yield from self._iter_epoch(epoch, worker, num_workers)
        except ValueError as error:
            yield LoadedBatch(None, torch.zeros(0, dtype=torch.int64), str(error))

    def _iter_epoch(self, epoch: int, worker: int, num_workers: int) -> Iterator[LoadedBatch]:
        epoch_start = epoch * self.num_steps_per_epoch
        all_steps = range(epoch_start, epoch_start + self.num_steps_per_epoch)
        own_steps = [step for step in all_steps if step % num_workers == worker]
        num_done = sum(step < self.start_step for step in own_steps)
        reader, num_readers = self.rank * num_workers + worker, self.world_size * num_workers
        samples = iter_epoch_samples(self.dataset, self.seed, epoch, reader, num_readers)
        with contextlib.closing(samples):
            num_skipped = num_done * self.local_batch_size
            # A stream has no other way to reach the middle of an epoch.
            next(itertools.islice(samples, num_skipped, num_skipped), None)
            for _ in own_steps[num_done:]:
                images = [self._load(epoch, *next(samples)) for _ in range(self.local_batch_size)]
                yield _collate(self.dataset, images)

    def _load(self, epoch: int, index: int, repeat: int, content: bytes) -> LoadedImage:
        name = self.dataset.name(index)
        try:
            key = augmentation_keys(
                self.seed, epoch, torch.tensor([index]), torch.tensor([repeat]), self.transform.alternates
            )
            draws = self.transform.sample_draws(key)[0]
            choose_scale = self.transform.choose_scale(draws)
            pixels = read_image(content, self.dataset.channels, name, self.dataset.limits, choose_scale)
            return LoadedImage(self.transform.apply_draws(pixels, draws), index)
        except ValueError as error:
            return LoadedImage(None, index, _with_name(error, name))
