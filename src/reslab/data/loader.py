"""Load batches: endless training batches, and one pass over a split for evaluation.

Nothing here has state: step t takes samples of the permutation of (seed, epoch), so an iterator started at step t
continues exactly as one started at step 0, with any number of worker processes, and for all ranks together.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from reslab.data.image_datasets import ImageDataset, ShardImageDataset, TensorImageDataset
from reslab.data.loader_workers import (
    Batch,
    MapWorker,
    StreamWorker,
    keyed_indices,
    load_batches,
    start_data_loader,
    to_device,
)
from reslab.data.rng import hash_key, hash_keys
from reslab.data.sampler import StatelessSampler, StepIndices
from reslab.data.target_datasets import TargetImageDataset
from reslab.data.targets import TARGET_RULES, TASK_OF_TARGET, resolve_num_outputs
from reslab.data.transforms.mixup import BatchMixer
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline, parse_train_transform
from reslab.data.transforms.third_party import TransformSource
from reslab.data.webdataset.remote import check_num_shards
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import TargetKind

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
        alternates = self.transform.alternates
        for step_indices in self.iter_indices(start_step):
            indices = step_indices.indices.to(self.device, non_blocking=True)
            batch_pixels = pixels.index_select(0, indices)  # on a CPU far faster than pixels[indices]
            x = self._transform_in_memory(
                batch_pixels, step_indices.augmentation_keys(self.seed, self.device, alternates)
            )
            yield x, labels[indices], indices

    def _transform_in_memory(self, pixels: Tensor, keys: Tensor) -> Tensor:
        if self.normalize.per_pixel:  # each pixel loses its own mean before it is moved
            return self.transform.apply_batch(self.normalize(pixels), keys)
        return self.normalize(self.transform.apply_batch(pixels, keys))

    def _from_workers(self, start_step: int) -> Iterator[Batch]:
        all_indices, alternates = self.iter_indices(start_step), self.transform.alternates
        keyed_batches = (keyed_indices(step_indices, self.seed, alternates) for step_indices in all_indices)
        for x, y, indices in load_batches(self.dataset, keyed_batches, self.transform, self.num_workers, self.device):
            yield _normalize_batch(self.normalize, x), y, indices

    def _from_stream(self, dataset: ShardImageDataset, start_step: int) -> Iterator[Batch]:
        stream = StreamWorker(
            dataset,
            self.transform,
            self.seed,
            start_step,
            local_batch_size=self.local_batch_size,
            num_steps_per_epoch=self.num_steps_per_epoch,
            rank=self.rank,
            world_size=self.world_size,
        )
        for batch in start_data_loader(stream, self.device, batch_size=None, num_workers=self.num_workers):
            x, y, indices = to_device(batch, dataset.labels, self.device)
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
    batches = load_batches(dataset, keyed_batches, transform, num_workers, device)
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
    sample = MapWorker(dataset, transform)[0, hash_key(0, 0, 0)]
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
