"""Stream the training samples of shards by URL: every reader reads its share of the shards once an epoch.

The shards of an epoch are ordered by (seed, epoch) and dealt out to the readers, the workers of all ranks. A reader
shuffles its samples in a buffer, by (seed, epoch, reader). So the samples of a step are a function of the step, for a
given number of ranks and workers, and no state has to be saved.
"""

import itertools
import random
import tarfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from reslab.data.image_datasets import ShardImageDataset
from reslab.data.rng import hash_key, permutation
from reslab.data.webdataset.http import UrlFile
from reslab.data.webdataset.remote import require_webdataset
from reslab.spec.errors import invalid

SHUFFLE_BUFFER_SIZE = 1000


def check_num_shards(dataset: ShardImageDataset, num_workers: int, world_size: int) -> None:
    """Raise ValueError unless there is at least one shard for every worker of every rank."""
    num_shards = len({location.shard for location in dataset.locations})
    if max(1, num_workers) * world_size > num_shards:
        shards_per_rank = num_shards // world_size
        suggestion = f"-j {shards_per_rank}" if shards_per_rank else f"{num_shards} ranks"
        got = f"{num_shards} shards for {world_size} ranks of {max(1, num_workers)} workers"
        next_step = "or divide the data into more shards"
        raise invalid("at least one shard for every worker of every rank", got, suggestion, next_step)


def iter_epoch_samples(
    dataset: ShardImageDataset, seed: int, epoch: int, reader: int, num_readers: int
) -> Generator[tuple[int, int, bytes]]:
    """Yield (index, repeat, content) of a reader's samples in an epoch, without end.

    Batches are divided evenly among readers, shards are not: a reader with fewer samples reads its shards again, in
    another order, with repeat 1, 2, ...
    """
    webdataset = require_webdataset()
    indices_by_shard: dict[str, dict[str, int]] = defaultdict(dict)
    for index, location in enumerate(dataset.locations):
        indices_by_shard[str(location.shard)][f"{location.key}.{location.extension}"] = index
    shards = list(indices_by_shard)
    order = [shards[i] for i in permutation(len(shards), seed, epoch).tolist()]
    for repeat in itertools.count():
        samples = (
            sample
            for shard in order[reader::num_readers]
            for sample in _read_shard(webdataset, shard, indices_by_shard[shard])
        )
        rng = random.Random(hash_key(seed, epoch, reader, repeat))
        for index, content in webdataset.shuffle(SHUFFLE_BUFFER_SIZE, rng=rng)(samples):
            yield index, repeat, content


def _read_shard(webdataset: Any, url: str, indices: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
    """Yield (index, content) of the samples of a shard that are in the dataset, in the order of the tar."""
    expand_tar, group_by_keys = webdataset.tariterators.tar_file_expander, webdataset.tariterators.group_by_keys
    num_found = 0
    with UrlFile(url) as file:
        try:
            for sample in group_by_keys(expand_tar([{"url": url, "stream": file}])):
                for extension in sample:
                    index = indices.get(f"{sample['__key__']}.{extension}")
                    if index is not None:
                        num_found += 1
                        yield index, sample[extension]
        except (tarfile.TarError, ValueError) as error:
            # webdataset adds details of its own to the arguments; the first is the message.
            raise ValueError(f"{url}: {str(error.args[0]).removeprefix(f'{url}: ')}") from error
    if num_found != len(indices):
        required = f"the {len(indices)} images that {url} had when it was indexed"
        raise invalid(required, num_found, next_step="begin a new run")
