"""WebDataset shards by URL: which there are, and what is in each, looked through once and remembered."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reslab.data.cache import cache_dir, read_json, write_json
from reslab.data.formats.class_folders import SPLIT_FOLDERS
from reslab.data.webdataset.http import UrlFile, check_url, download_file
from reslab.data.webdataset.stream import require_webdataset
from reslab.data.webdataset.tar import IndexedSample, scan_shard
from reslab.spec.errors import invalid

_FORMAT = "1"
_NUM_CONCURRENT_FETCHES = 4
_SPLIT_OF = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
_SPLIT_PATTERN = re.compile(rf"(?:^|/)({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?![a-z])[^/]*(?:/[^/]*)?$")


def is_url(text: str) -> bool:
    """Whether data is named by URL rather than by a path (`pipe:` and the like are URLs too, and refused later)."""
    return "://" in text or text.startswith("pipe:")


def list_url_shards(text: str) -> dict[str, list[str]]:
    """The shards of each split that a text names: URLs with braces, `train-{000..009}.tar`, several joined by `::`.

    Split by their names as in a folder: train-*.tar, val-*.tar or train/*.tar ...; without such names all train.
    Raises ValueError for what is no URL of a tar file, comes twice, and for names of which only some tell a split.
    """
    for url_text in text.split("::"):
        check_url(url_text)
    shards_by_split: dict[str, list[str]] = {}
    urls: list[str] = require_webdataset().shardlists.expand_urls(text)
    for url in urls:
        path = urlsplit(check_url(url)).path
        if not path.endswith(".tar") or urls.count(url) > 1:
            got = f"{url} twice" if path.endswith(".tar") else url
            raise invalid("URLs of tar files, each once", got, "https://HOST/train-{000..009}.tar")
        match = _SPLIT_PATTERN.search(path)
        shards_by_split.setdefault(_SPLIT_OF[match[1]] if match else "", []).append(url)
    if set(shards_by_split) == {""}:
        return {"train": shards_by_split[""]}
    if "" in shards_by_split or "train" not in shards_by_split:
        got = (
            f"{shards_by_split[''][0]} beside others"
            if "" in shards_by_split
            else f"only shards of {' and '.join(shards_by_split)}"
        )
        raise invalid("shards all called train-, val- or test-, some of them train-", got, "train-000.tar")
    return {split: shards_by_split[split] for split in SPLIT_FOLDERS if split in shards_by_split}


def url_root(urls: Sequence[str]) -> str:
    """The folder that all URLs are in, without a slash at its end."""
    folders = [url.split("?")[0].rpartition("/")[0].split("/") for url in urls]
    common_parts = [parts[0] for parts in zip(*folders, strict=False) if len(set(parts)) == 1]
    root_parts = common_parts if common_parts == folders[0][: len(common_parts)] else folders[0][:3]
    return "/".join(root_parts)


def index_url_shards(urls: Sequence[str]) -> list[IndexedSample]:
    """The samples of shards by URL, in order; each shard is fetched once, looked through as one on disk, and let go.

    The index is remembered in the cache while a shard keeps its length and the server's word for its version.
    """
    with ThreadPoolExecutor(_NUM_CONCURRENT_FETCHES) as pool:
        return [sample for samples in pool.map(_index_url, urls) for sample in samples]


def _index_url(url: str) -> list[IndexedSample]:
    bare_url = url.split("?")[0]  # a signed address has another signature tomorrow
    cache_path = cache_dir() / "shards" / f"{hashlib.sha256(bare_url.encode()).hexdigest()[:24]}.json"
    cached = read_json(cache_path)
    with UrlFile(url) as file:
        url_state = [_FORMAT, *file.version]
    if cached.get("state") != url_state:
        cached = {"state": url_state, "shard": bare_url, "samples": _fetch_and_scan(url)}
        write_json(cache_path, cached)
    return [IndexedSample.from_entry(url, entry) for entry in cached["samples"]]


def _fetch_and_scan(url: str) -> list[list[Any]]:
    with tempfile.TemporaryDirectory(prefix="reslab-") as folder:
        path = Path(folder) / "shard.tar"
        download_file(url, path)
        try:
            return scan_shard(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), url)) from None
