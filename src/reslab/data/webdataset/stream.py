"""Training samples from shards by URL, which flow by: each worker reads its share of the shards once an epoch.

The shards of an epoch are put in an order of (seed, epoch) and dealt out to the workers of all ranks; each shuffles
what flows by in a buffer, by (seed, epoch, worker), and makes whole batches of it: step t is of worker t mod workers.
So the samples of a step are a function of the step, for as many ranks and workers, and nothing has to be remembered.
"""

import contextlib
import importlib
import itertools
import random
import tarfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from reslab.data.decode import read_image
from reslab.data.image_datasets import ShardImageDataset
from reslab.data.rng import hash_key, hash_keys, permutation, repeat_keys
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.data.webdataset.http import UrlFile
from reslab.data.workers import Collate, LoadedImage, detach_worker, iter_quietly
from reslab.spec.errors import invalid

SHUFFLE_BUFFER_SIZE = 1000
_INSTALL_HINT = "pip install 'reslab[webdataset]', or fetch the shards into a folder and name the folder"


def require_webdataset() -> Any:
    """The library that reads what flows by. Raises ValueError, saying how to get it, where it is not installed."""
    try:
        return importlib.import_module("webdataset")
    except ImportError:
        raise invalid("webdataset for shards by URL", "none installed", next_step=_INSTALL_HINT) from None


@dataclass(frozen=True, eq=False)
class StreamLoader:
    """What flows to one rank: its parts, of `share` samples, of the batches of an epoch, `num_steps_per_epoch`."""

    dataset: ShardImageDataset
    transform: TransformPipeline
    seed: int
    local_batch_size: int
    num_steps_per_epoch: int
    num_workers: int
    rank: int = 0
    world_size: int = 1

    def check_num_shards(self) -> None:
        """Raises ValueError where there are fewer shards than workers to share them."""
        num_shards = len({location.shard for location in self.dataset.locations})
        num_readers = max(1, self.num_workers) * self.world_size
        if num_readers > num_shards:
            shards_per_rank = num_shards // self.world_size
            suggestion = f"-j {shards_per_rank}" if shards_per_rank else f"{num_shards} ranks"
            got = f"{num_shards} for {self.world_size} ranks of {max(1, self.num_workers)}"
            raise invalid(
                "at least one shard for every worker of every rank", got, suggestion, "or cut the shards smaller"
            )

    def iter_from(self, start_step: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pixels, labels, indices) of step `start_step`, `start_step` + 1, ... without end.

        Raises ValueError naming a picture that cannot be read, or a shard that is not what was indexed.
        """
        for pixels, indices in iter_quietly(lambda: self._make_data_loader(start_step, device)):
            if isinstance(pixels, str):
                raise ValueError(pixels)
            labels = self.dataset.labels[indices].to(device, non_blocking=True)
            yield pixels.to(device, non_blocking=True), labels, indices.to(device, non_blocking=True)

    def _make_data_loader(self, start_step: int, device: torch.device) -> "DataLoader[Any]":
        return DataLoader(
            _WorkerStream(self, start_step),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=detach_worker,
            generator=torch.Generator(),
        )


class _WorkerStream(IterableDataset[tuple[Tensor | str, Tensor]]):
    """What one worker makes: the batches of its steps, each whole."""

    def __init__(self, loader: StreamLoader, start_step: int) -> None:
        self.loader, self.start_step = loader, start_step

    def __iter__(self) -> Iterator[tuple[Tensor | str, Tensor]]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        # torch's loader takes from its workers in turn and begins with the first: here that one stands for the worker
        # whose turn it would be, had the run come to this step by itself.
        worker = (self.start_step + worker) % num_workers
        try:
            for epoch in itertools.count(self.start_step // self.loader.num_steps_per_epoch):
                yield from self._iter_epoch(epoch, worker, num_workers)
        except ValueError as error:  # told by the main process without a worker's traceback around it
            yield str(error), torch.zeros(0, dtype=torch.int64)

    def _iter_epoch(self, epoch: int, worker: int, num_workers: int) -> Iterator[tuple[Tensor | str, Tensor]]:
        loader, steps_per_epoch = self.loader, self.loader.num_steps_per_epoch
        own_steps = [
            step
            for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
            if step % num_workers == worker
        ]
        num_done = sum(step < self.start_step for step in own_steps)
        collate = Collate(loader.dataset)
        with contextlib.closing(
            _iter_samples(loader, epoch, loader.rank * num_workers + worker, loader.world_size * num_workers)
        ) as samples:
            for _ in itertools.islice(samples, num_done * loader.local_batch_size):
                pass
            for _ in own_steps[num_done:]:
                yield collate([_load_image(loader, epoch, *next(samples)) for _ in range(loader.local_batch_size)])


def _iter_samples(loader: StreamLoader, epoch: int, reader: int, num_readers: int) -> Generator[tuple[int, int, bytes]]:
    """(index, times seen before, bytes) of the samples of a reader in an epoch; those of its shards again and again."""
    webdataset = require_webdataset()
    indices_by_shard: dict[str, dict[str, int]] = defaultdict(dict)
    for index, location in enumerate(loader.dataset.locations):
        indices_by_shard[str(location.shard)][f"{location.key}.{location.extension}"] = index
    shards = list(indices_by_shard)
    order = [shards[i] for i in permutation(len(shards), loader.seed, epoch).tolist()]
    for repeat in itertools.count():
        samples = (
            sample
            for shard in order[reader::num_readers]
            for sample in _read_shard(webdataset, shard, indices_by_shard[shard])
        )
        shuffle = webdataset.shuffle(
            SHUFFLE_BUFFER_SIZE, rng=random.Random(hash_key(loader.seed, epoch, reader, repeat))
        )
        for index, content in shuffle(samples):
            yield index, repeat, content


def _read_shard(webdataset: Any, url: str, indices: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
    """(index, bytes) of the samples of a shard that have a place, as they lie in it."""
    expand_tar, group_by_keys, num_found = (
        webdataset.tariterators.tar_file_expander,
        webdataset.tariterators.group_by_keys,
        0,
    )
    with UrlFile(url) as file:
        try:
            for sample in group_by_keys(expand_tar([{"url": url, "stream": file}])):
                for extension in sample:
                    index = indices.get(f"{sample['__key__']}.{extension}")
                    if index is not None:
                        num_found += 1
                        yield index, sample[extension]
        except (tarfile.TarError, ValueError) as error:  # the library appends what nobody wants to read
            raise ValueError(f"{url}: {str(error.args[0]).removeprefix(f'{url}: ')}") from error
    if num_found != len(indices):
        raise invalid(f"the {len(indices)} pictures that {url} had", f"{num_found}", next_step="begin a new run")


def _load_image(loader: StreamLoader, epoch: int, index: int, repeat: int, content: bytes) -> LoadedImage:
    location, name = loader.dataset.locations[index], loader.dataset.name(index)
    try:
        sample_key = repeat_keys(hash_keys(loader.seed, epoch, torch.tensor([index])), torch.tensor([repeat]))
        pixels = read_image(content, loader.dataset.channels, name, location.extension)
        return LoadedImage(loader.transform.apply_image(pixels, int(sample_key)), index)
    except ValueError as error:
        return LoadedImage(None, index, str(error) if name in str(error) else f"{name}: {error}")
