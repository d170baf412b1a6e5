"""WebDataset shards by URL: expand their names, download each once and index it, and stream the training samples.

Every reader reads its share of the shards once an epoch. The shards of an epoch are ordered by (seed, epoch) and dealt
out to the readers, the workers of all ranks. A reader shuffles its samples in a buffer, by (seed, epoch, reader). So
the samples of a step are a function of the step, for a given number of ranks and workers, and no state has to be saved.
"""

import importlib
import itertools
import random
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reslab.data.image_datasets import ShardImageDataset
from reslab.data.rng import hash_key, permutation
from reslab.data.webdataset.http import UrlFile, check_url, download_file
from reslab.data.webdataset.tar import IndexedSample, IndexRow, cached_index, scan_shard
from reslab.spec.errors import invalid

_NUM_CONCURRENT_DOWNLOADS = 4
_INSTALL_HINT = "pip install 'reslab[webdataset]', or download the shards into a folder and name the folder"


def require_webdataset() -> Any:
    """Return the package `webdataset`. Raises ValueError with the install command if it is not installed."""
    try:
        return importlib.import_module("webdataset")
    except ImportError:
        raise invalid("webdataset for shards by URL", "not installed", next_step=_INSTALL_HINT) from None


def is_url(text: str) -> bool:
    """Return True for a URL rather than a path; `pipe:` commands count as URLs and are rejected later."""
    return "://" in text or text.startswith("pipe:")


def expand_urls(text: str) -> list[str]:
    """Return the URLs of shards that a text names: braces as in `train-{000..009}.tar`, several joined by `::`.

    Raises ValueError unless every URL is http or https, ends in .tar and occurs once.
    """
    for url_text in text.split("::"):
        check_url(url_text)
    urls: list[str] = require_webdataset().shardlists.expand_urls(text)
    for url in urls:
        is_tar = urlsplit(check_url(url)).path.endswith(".tar")
        if not is_tar or urls.count(url) > 1:
            got = f"{url} twice" if is_tar else url
            raise invalid("URLs of tar files, each once", got, "https://HOST/train-{000..009}.tar")
    return urls


def url_root(urls: Sequence[str]) -> str:
    """Return the deepest folder that contains all URLs, without a slash at its end."""
    folders = [url.split("?")[0].rpartition("/")[0].split("/") for url in urls]
    common_parts = [parts[0] for parts in zip(*folders, strict=False) if len(set(parts)) == 1]
    root_parts = common_parts if common_parts == folders[0][: len(common_parts)] else folders[0][:3]
    return "/".join(root_parts)


def index_url_shards(urls: Sequence[str]) -> list[IndexedSample]:
    """Return the samples of shards by URL, in order; a shard is downloaded to be indexed, then deleted.

    The cache keeps the index of a shard until its length or its version at the server changes.
    """
    with ThreadPoolExecutor(_NUM_CONCURRENT_DOWNLOADS) as pool:
        return [sample for samples in pool.map(_index_url, urls) for sample in samples]


def _index_url(url: str) -> list[IndexedSample]:
    with UrlFile(url) as file:
        version = file.version
    # Without the query: a signed URL has another signature tomorrow.
    rows = cached_index(url.split("?")[0], version, lambda: _download_and_scan(url))
    return [row.to_sample(url) for row in rows]


def _download_and_scan(url: str) -> list[IndexRow]:
    with tempfile.TemporaryDirectory(prefix="reslab-") as folder:
        path = Path(folder) / "shard.tar"
        download_file(url, path)
        try:
            return scan_shard(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), url)) from None


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
