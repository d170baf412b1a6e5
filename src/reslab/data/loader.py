"""Load batches: endless training batches, and one pass over a split for evaluation.

Nothing here has state: step t takes samples of the permutation of (seed, epoch), so an iterator started at step t
continues exactly as one started at step 0, with any number of worker processes, and for all ranks together.
"""

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from reslab.data.decode import read_image
from reslab.data.image_datasets import ImageDataset, ShardImageDataset, TensorImageDataset, WrappedImageDataset
from reslab.data.jpeg import has_torchvision_decoder
from reslab.data.rng import RandomDraws, hash_key, hash_keys, repeat_keys, temporary_seed
from reslab.data.sampler import StatelessSampler, StepIndices
from reslab.data.target_datasets import TargetImageDataset
from reslab.data.targets import TARGET_RULES, TASK_OF_TARGET, resolve_num_outputs
from reslab.data.transforms.mixup import BatchMixer
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline, parse_train_transform
from reslab.data.transforms.third_party import TransformSource
from reslab.data.webdataset.stream import check_num_shards, iter_epoch_samples
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import TargetKind

Batch = tuple[Any, Any, Tensor]
KeyedIndex = tuple[int, int]
"""A sample's index and its key, a hash: its pixels depend on nothing else."""


_NUM_TRIED = 4


class TrainLoader:
    """Endless training batches (x, y, indices): normalized float32 (n, C, H, W), int64 (n,), int64 (n,).

    Labels of several classes or of values are y (n, outputs) in float32.
    Step t is step t mod k of epoch t // k, k = `num_steps_per_epoch`; the last `num_dropped` samples of an epoch's
    permutation, which fill no batch, are dropped. `batch_size` is global: rank r of `world_size` gets its r-th part of
    every batch, n = batch_size / world_size samples. `transform` is an expression, a function of an image
    (C, H, W), or a list of both. With mixup or cutmix in the transform, y is float32
    (n, num_classes), mixed alike, and its rows sum to 1 where an image has one class; `num_classes` defaults to the
    largest label + 1, or the columns of the labels.
    Where the images have targets that move with them (`TargetImageDataset`), y is the target of the batch: masks int64
    (n, H, W), 255 where a pixel is void or was not part of the image. For object detection x is a list of n images
    (C, H_i, W_i) and y a list of n targets (`BoxImageDataset`).
    Images in memory stay on `device` and are transformed there, a batch at once; all others, and those with targets,
    are read and transformed by `num_workers` processes (0: in this one). Shards by URL are streamed: their order
    depends on ranks and workers.
    Raises ValueError if the batch is larger than the dataset or cannot be divided, or the transform does not fit.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        transform: TransformSource,
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
        transform_functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.sampler = StatelessSampler(
            dataset.labels, batch_size, seed, num_repeats, class_balanced, dataset.target_kind
        )
        _check_workers(num_workers)
        _check_rank(rank, world_size)
        self.transform, self.batch_mixer = parse_train_transform(transform, transform_functions)
        self.transform_functions = transform_functions
        _check_batch_split(batch_size, world_size, self.batch_mixer is not None)
        _check_mixer(self.batch_mixer, dataset.target_kind)
        self.dataset, self.batch_size, self.seed, self.num_workers = dataset, batch_size, seed, num_workers
        self.rank, self.world_size, self.local_batch_size = rank, world_size, batch_size // world_size
        self.device = torch.device(device)
        self.normalize = Normalize(preprocess, self.device)
        self.num_steps_per_epoch, self.num_dropped = self.sampler.num_steps_per_epoch, self.sampler.num_dropped
        self.num_classes = resolve_num_outputs(dataset.labels, dataset.target_kind, num_classes)
        if isinstance(dataset, TensorImageDataset):
            # Try one image: a transform that does not fit should fail here, not when training has started.
            few = dataset.images[:_NUM_TRIED].to(device)  # several, as a random size would differ between them
            self._transform_in_memory(few, torch.arange(len(few), device=device))
        elif self.normalize.per_pixel:
            raise invalid("small images of one size for a mean of each pixel", "images in files")
        if isinstance(dataset, TargetImageDataset):
            _try_first_sample(dataset, self.transform)
        self._streamed = dataset if isinstance(dataset, ShardImageDataset) and dataset.is_remote else None
        if self._streamed is not None:
            self._check_stream(self._streamed)

    @property
    def is_streamed(self) -> bool:
        """True for shards by URL, for which the samples of a step depend on the number of workers."""
        return self._streamed is not None

    def iter_from(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's part of the batches of steps `start_step`, `start_step` + 1, ... without end."""
        if isinstance(self.dataset, TensorImageDataset):
            batches = self._from_memory(self.dataset, start_step)
        elif self._streamed is not None:
            batches = self._from_stream(self._streamed, start_step)
        else:
            batches = self._from_workers(start_step)
        for step, (x, y, indices) in enumerate(batches, start_step):
            if self.batch_mixer is None:
                yield x, y, indices
            else:
                yield *self.batch_mixer(x, y, self.num_classes, self.seed, step), indices

    def iter_indices(self, start_step: int = 0) -> Iterator[StepIndices]:
        """Yield the samples of this rank's part of every step from `start_step` on, on the CPU."""
        start = self.rank * self.local_batch_size
        for step_indices in self.sampler.iter_indices(start_step):
            yield step_indices.slice_range(start, start + self.local_batch_size)

    def _from_memory(self, dataset: TensorImageDataset, start_step: int) -> Iterator[Batch]:
        pixels, labels = dataset.images.to(self.device), dataset.labels.to(self.device)
        for step_indices in self.iter_indices(start_step):
            indices = step_indices.indices.to(self.device, non_blocking=True)
            batch_pixels = pixels.index_select(0, indices)  # on a CPU far faster than pixels[indices]
            x = self._transform_in_memory(batch_pixels, step_indices.augmentation_keys(self.seed, self.device))
            yield x, labels[indices], indices

    def _transform_in_memory(self, pixels: Tensor, keys: Tensor) -> Tensor:
        if self.normalize.per_pixel:  # each pixel loses its own mean before it is moved
            return self.transform.apply_batch(self.normalize(pixels), keys)
        return self.normalize(self.transform.apply_batch(pixels, keys))

    def _from_workers(self, start_step: int) -> Iterator[Batch]:
        keyed_batches = (_keyed_indices(step_indices, self.seed) for step_indices in self.iter_indices(start_step))
        for x, y, indices in _load_batches(self.dataset, keyed_batches, self.transform, self.num_workers, self.device):
            yield _normalize_batch(self.normalize, x), y, indices

    def _from_stream(self, dataset: ShardImageDataset, start_step: int) -> Iterator[Batch]:
        stream = _StreamWorker(
            dataset,
            self.transform,
            self.seed,
            start_step,
            local_batch_size=self.local_batch_size,
            num_steps_per_epoch=self.num_steps_per_epoch,
            rank=self.rank,
            world_size=self.world_size,
        )
        for batch in _start_data_loader(stream, self.device, batch_size=None, num_workers=self.num_workers):
            x, y, indices = _to_device(batch, dataset.labels, self.device)
            yield self.normalize(x), y, indices

    def _check_stream(self, dataset: ShardImageDataset) -> None:
        if self.sampler.num_repeats > 1 or self.sampler.class_balanced:
            got = "repeated augmentation or class-balanced sampling"
            next_step = "download the shards into a folder and name the folder, "
            next_step += "or set repeated_augmentation=1 and class_balanced_sampling=false"
            raise invalid("each sample once an epoch for shards by URL", got, next_step=next_step)
        check_num_shards(dataset, self.num_workers, self.world_size)


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
    """Yield every sample once, in order, as (x, y, indices) like `TrainLoader`; the last batch may be smaller.

    Rank r gets the batches r, r + world_size, ..., whole: no sample twice, none missing, and each batch computed as by
    a single process. With fewer batches than ranks, some ranks get none. Where images have targets that move with them
    and the preprocessing leaves several sizes, only neighbors of one size share a batch: nothing is padded, so that the
    results do not depend on the batch size. A batch for object detection is a list of images of any sizes.
    Raises ValueError if the preprocessing does not fit the images, or leaves them in several sizes.
    """
    if batch_size < 1:
        raise invalid("a batch size of at least 1", batch_size, nearest="1")
    _check_workers(num_workers)
    _check_rank(rank, world_size)
    device, transform = torch.device(device), TransformPipeline(preprocess.transform)
    normalize = Normalize(preprocess, device)
    starts = range(rank * batch_size, len(dataset), world_size * batch_size)
    if isinstance(dataset, TensorImageDataset):
        return _eval_from_memory(dataset, starts, batch_size, transform, normalize)
    spans = [range(start, min(start + batch_size, len(dataset))) for start in starts]
    if isinstance(dataset, TargetImageDataset) and not dataset.has_listed_batches:
        spans = _equal_size_spans(dataset, batch_size, preprocess)[rank::world_size]
    keyed_batches = ([(i, hash_key(0, 0, i)) for i in span] for span in spans)
    batches = _load_batches(dataset, keyed_batches, transform, num_workers, device)
    return ((_normalize_batch(normalize, x), y, indices) for x, y, indices in batches)


def _normalize_batch(normalize: Normalize, pixels: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return [normalize(image[None])[0] for image in pixels] if isinstance(pixels, list) else normalize(pixels)


def _equal_size_spans(dataset: TargetImageDataset, batch_size: int, preprocess: Preprocess) -> list[range]:
    """Return the batches of an evaluation: neighbors whose transformed images have one size, up to `batch_size`."""
    sizes = eval_sizes(dataset, preprocess)
    starts = [0] if sizes else []
    for i in range(1, len(sizes)):
        if sizes[i] != sizes[i - 1] or i - starts[-1] == batch_size:
            starts.append(i)
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def eval_sizes(dataset: TargetImageDataset, preprocess: Preprocess) -> list[tuple[int, ...]]:
    """Return height and width of each image as it is evaluated."""
    return [_output_size(preprocess.transform, preprocess.channels, *size) for size in dataset.image_sizes()]


@lru_cache(maxsize=1 << 16)
def _output_size(transform: str, channels: int, height: int, width: int) -> tuple[int, ...]:
    """Return height and width of a transformed image of these height and width."""
    image = torch.zeros((channels, height, width), dtype=torch.uint8)
    return tuple(TransformPipeline(transform).apply_image(image, 0).shape[-2:])


def _try_first_sample(dataset: TargetImageDataset, transform: TransformPipeline) -> None:
    """Raise ValueError if the transform does not fit the first image: not only when training has started."""
    sample = _MapWorker(dataset, transform)[0, hash_key(0, 0, 0)]
    if sample.error:
        raise ValueError(sample.error)


def _eval_from_memory(
    dataset: TensorImageDataset, starts: range, batch_size: int, transform: TransformPipeline, normalize: Normalize
) -> Iterator[Batch]:
    device = normalize.device
    for start in starts:
        batch_slice = slice(start, min(start + batch_size, len(dataset)))
        indices = torch.arange(batch_slice.start, batch_slice.stop, device=device)
        x = transform.apply_batch(dataset.images[batch_slice].to(device), hash_keys(0, 0, indices))
        yield normalize(x), dataset.labels[batch_slice].to(device), indices


def _check_workers(num_workers: int) -> None:
    if num_workers < 0:
        raise invalid("0 or more workers", num_workers, nearest="0")


def _check_rank(rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise invalid("a rank from 0 to world_size - 1", f"rank {rank} of {world_size}", nearest="rank 0 of 1")


def _check_mixer(batch_mixer: BatchMixer | None, target_kind: TargetKind) -> None:
    rules = TARGET_RULES[target_kind]
    if batch_mixer is not None and not rules.can_be_mixed:
        required = f"a transform that moves the targets of {TASK_OF_TARGET[target_kind]} with each image"
        next_step = "leave mixup and cutmix out of the transform"
        raise invalid(required, "mixup or cutmix, which mix images", next_step=next_step)
    if batch_mixer is not None and batch_mixer.cutmix and not rules.can_be_cut:
        required = "a transform without cutmix for regression (a part of an image has not a part of its values)"
        raise invalid(required, f"cutmix({batch_mixer.cutmix:g})", nearest=f"mixup({batch_mixer.cutmix:g})")


def _check_batch_split(batch_size: int, world_size: int, mixes_pairs: bool) -> None:
    """Raise ValueError unless ranks can share a batch evenly, and without separating a pair that is mixed."""
    divisor = world_size * (2 if mixes_pairs and world_size > 1 else 1)
    if batch_size % divisor:
        parity = ", an even number each (images are mixed in pairs)" if divisor > world_size else ""
        required = f"a batch size that {world_size} ranks share evenly{parity}"
        raise invalid(required, batch_size, nearest=str(max(divisor, round(batch_size / divisor) * divisor)))


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


def _keyed_indices(step_indices: StepIndices, seed: int) -> list[KeyedIndex]:
    keys = step_indices.augmentation_keys(seed, torch.device("cpu"))
    return list(zip(step_indices.indices.tolist(), keys.tolist(), strict=True))


def _load_batches(
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
    for batch in _start_data_loader(
        _MapWorker(dataset, transform),
        device,
        batch_sampler=keyed_batches,
        num_workers=num_workers,
        collate_fn=partial(_collate, dataset),
    ):
        yield _to_device(batch, dataset.labels, device)


def _start_data_loader(dataset: Dataset[Any], device: torch.device, **options: Any) -> Iterator[LoadedBatch]:
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


def _to_device(batch: LoadedBatch, labels: Tensor, device: torch.device) -> Batch:
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


class _MapWorker(Dataset[LoadedImage]):
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


class _StreamWorker(IterableDataset[LoadedBatch]):
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
            for _ in itertools.islice(samples, num_done * self.local_batch_size):
                pass  # a stream has no other way to reach the middle of an epoch
            for _ in own_steps[num_done:]:
                images = [self._load(epoch, *next(samples)) for _ in range(self.local_batch_size)]
                yield _collate(self.dataset, images)

    def _load(self, epoch: int, index: int, repeat: int, content: bytes) -> LoadedImage:
        name = self.dataset.name(index)
        try:
            key = repeat_keys(hash_keys(self.seed, epoch, torch.tensor([index])), torch.tensor([repeat]))
            pixels = read_image(content, self.dataset.channels, name, self.dataset.limits)
            return LoadedImage(self.transform.apply_image(pixels, int(key)), index)
        except ValueError as error:
            return LoadedImage(None, index, _with_name(error, name))
