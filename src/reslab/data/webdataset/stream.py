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

from reslab.data.decode import read_picture
from reslab.data.image_datasets import ShardImages
from reslab.data.rng import again, key, keys, permutation
from reslab.data.transforms.pipeline import Augment
from reslab.data.webdataset.http import UrlFile
from reslab.data.workers import Read, Stacking, apart, started
from reslab.spec.errors import invalid

BUFFER_SAMPLES = 1000
_EXTRA = "pip install 'reslab[webdataset]', or fetch the shards into a folder and name the folder"


def require_webdataset() -> Any:
    """The library that reads what flows by. Raises ValueError, saying how to get it, where it is not installed."""
    try:
        return importlib.import_module("webdataset")
    except ImportError:
        raise invalid("webdataset for shards by URL", "none installed", next_step=_EXTRA) from None


@dataclass(frozen=True, eq=False)
class Flow:
    """What flows to one rank: its parts, of `share` samples, of the batches of an epoch, `num_steps_per_epoch`."""

    images: ShardImages
    augment: Augment
    seed: int
    share: int
    num_steps_per_epoch: int
    workers: int
    rank: int = 0
    num_ranks: int = 1

    def check(self) -> None:
        """Raises ValueError where there are fewer shards than workers to share them."""
        num = len({spot.shard for spot in self.images.spots})
        readers = max(1, self.workers) * self.num_ranks
        if readers > num:
            per_rank = num // self.num_ranks
            near = f"-j {per_rank}" if per_rank else f"{num} ranks"
            got = f"{num} for {self.num_ranks} ranks of {max(1, self.workers)}"
            raise invalid("at least one shard for every worker of every rank", got, near, "or cut the shards smaller")

    def batches(self, start_step: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pixels, labels, indices) of step `start_step`, `start_step` + 1, ... without end.

        Raises ValueError naming a picture that cannot be read, or a shard that is not what was indexed.
        """
        for pixels, indices in started(lambda: self._loader(start_step, device)):
            if isinstance(pixels, str):
                raise ValueError(pixels)
            labels = self.images.labels[indices].to(device, non_blocking=True)
            yield pixels.to(device, non_blocking=True), labels, indices.to(device, non_blocking=True)

    def _loader(self, start_step: int, device: torch.device) -> "DataLoader[Any]":
        return DataLoader(
            _Part(self, start_step),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=apart,
            generator=torch.Generator(),
        )


class _Part(IterableDataset[tuple[Tensor | str, Tensor]]):
    """What one worker makes: the batches of its steps, each whole."""

    def __init__(self, flow: Flow, start_step: int) -> None:
        self.flow, self.start_step = flow, start_step

    def __iter__(self) -> Iterator[tuple[Tensor | str, Tensor]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # torch's loader takes from its workers in turn and begins with the first: here that one stands for the worker
        # whose turn it would be, had the run come to this step by itself.
        worker = (self.start_step + worker) % workers
        try:
            for epoch in itertools.count(self.start_step // self.flow.num_steps_per_epoch):
                yield from self._epoch(epoch, worker, workers)
        except ValueError as error:  # told by the main process without a worker's traceback around it
            yield str(error), torch.zeros(0, dtype=torch.int64)

    def _epoch(self, epoch: int, worker: int, workers: int) -> Iterator[tuple[Tensor | str, Tensor]]:
        flow, per_epoch = self.flow, self.flow.num_steps_per_epoch
        mine = [step for step in range(epoch * per_epoch, (epoch + 1) * per_epoch) if step % workers == worker]
        num_done = sum(step < self.start_step for step in mine)
        stack = Stacking(flow.images)
        with contextlib.closing(_flowing(flow, epoch, flow.rank * workers + worker, flow.num_ranks * workers)) as left:
            for _ in itertools.islice(left, num_done * flow.share):
                pass
            for _ in mine[num_done:]:
                yield stack([_read(flow, epoch, *next(left)) for _ in range(flow.share)])


def _flowing(flow: Flow, epoch: int, reader: int, num_readers: int) -> Generator[tuple[int, int, bytes]]:
    """(index, times seen before, bytes) of the samples of a reader in an epoch; those of its shards again and again."""
    library = require_webdataset()
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for index, spot in enumerate(flow.images.spots):
        places[str(spot.shard)][f"{spot.key}.{spot.ending}"] = index
    shards = list(places)
    order = [shards[place] for place in permutation(len(shards), flow.seed, epoch).tolist()]
    for turn in itertools.count():
        found = (sample for shard in order[reader::num_readers] for sample in _shard(library, shard, places[shard]))
        shuffle = library.shuffle(BUFFER_SAMPLES, rng=random.Random(key(flow.seed, epoch, reader, turn)))
        for index, content in shuffle(found):
            yield index, turn, content


def _shard(library: Any, url: str, places: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
    """(index, bytes) of the samples of a shard that have a place, as they lie in it."""
    expand, group, num_found = library.tariterators.tar_file_expander, library.tariterators.group_by_keys, 0
    with UrlFile(url) as file:
        try:
            for sample in group(expand([{"url": url, "stream": file}])):
                for ending in sample:
                    index = places.get(f"{sample['__key__']}.{ending}")
                    if index is not None:
                        num_found += 1
                        yield index, sample[ending]
        except (tarfile.TarError, ValueError) as error:  # the library appends what nobody wants to read
            raise ValueError(f"{url}: {str(error.args[0]).removeprefix(f'{url}: ')}") from error
    if num_found != len(places):
        raise invalid(f"the {len(places)} pictures that {url} had", f"{num_found}", next_step="begin a new run")


def _read(flow: Flow, epoch: int, index: int, turn: int, content: bytes) -> Read:
    spot, name = flow.images.spots[index], flow.images.name(index)
    try:
        own = again(keys(flow.seed, epoch, torch.tensor([index])), torch.tensor([turn]))
        pixels = read_picture(content, flow.images.channels, name, spot.ending)
        return Read(flow.augment.one(pixels, int(own)), index)
    except ValueError as error:
        return Read(None, index, str(error) if name in str(error) else f"{name}: {error}")
