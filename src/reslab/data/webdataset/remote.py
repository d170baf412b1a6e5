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
from reslab.data.webdataset.http import UrlFile, check_url, fetch
from reslab.data.webdataset.stream import require_webdataset
from reslab.data.webdataset.tar import Indexed, look_through
from reslab.spec.errors import invalid

_FORMAT = "1"
_FETCHED_AT_ONCE = 4
_SPLIT_OF = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
_NAMED = re.compile(rf"(?:^|/)({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?![a-z])[^/]*(?:/[^/]*)?$")


def is_url(text: str) -> bool:
    """Whether data is named by URL rather than by a path (`pipe:` and the like are URLs too, and refused later)."""
    return "://" in text or text.startswith("pipe:")


def url_shards(text: str) -> dict[str, list[str]]:
    """The shards of each split that a text names: URLs with braces, `train-{000..009}.tar`, several joined by `::`.

    Split by their names as in a folder: train-*.tar, val-*.tar or train/*.tar ...; without such names all train.
    Raises ValueError for what is no URL of a tar file, comes twice, and for names of which only some tell a split.
    """
    for part in text.split("::"):
        check_url(part)
    found: dict[str, list[str]] = {}
    urls: list[str] = require_webdataset().shardlists.expand_urls(text)
    for url in urls:
        path = urlsplit(check_url(url)).path
        if not path.endswith(".tar") or urls.count(url) > 1:
            got = f"{url} twice" if path.endswith(".tar") else url
            raise invalid("URLs of tar files, each once", got, "https://HOST/train-{000..009}.tar")
        named = _NAMED.search(path)
        found.setdefault(_SPLIT_OF[named[1]] if named else "", []).append(url)
    if set(found) == {""}:
        return {"train": found[""]}
    if "" in found or "train" not in found:
        got = f"{found[''][0]} beside others" if "" in found else f"only shards of {' and '.join(found)}"
        raise invalid("shards all called train-, val- or test-, some of them train-", got, "train-000.tar")
    return {split: found[split] for split in SPLIT_FOLDERS if split in found}


def url_root(urls: Sequence[str]) -> str:
    """The folder that all URLs are in, without a slash at its end."""
    folders = [url.split("?")[0].rpartition("/")[0].split("/") for url in urls]
    same = [parts[0] for parts in zip(*folders, strict=False) if len(set(parts)) == 1]
    common = same if same == folders[0][: len(same)] else folders[0][:3]
    return "/".join(common)


def index_urls(urls: Sequence[str]) -> list[Indexed]:
    """The samples of shards by URL, in order; each shard is fetched once, looked through as one on disk, and let go.

    The index is remembered in the cache while a shard keeps its length and the server's word for its version.
    """
    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
        return [sample for samples in pool.map(_index, urls) for sample in samples]


def _index(url: str) -> list[Indexed]:
    place = url.split("?")[0]  # a signed address has another signature tomorrow
    memory = cache_dir() / "shards" / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.json"
    known = read_json(memory)
    with UrlFile(url) as file:
        state = [_FORMAT, *file.version]
    if known.get("state") != state:
        known = {"state": state, "shard": place, "samples": _fetched(url)}
        write_json(memory, known)
    return [Indexed.of(url, entry) for entry in known["samples"]]


def _fetched(url: str) -> list[list[Any]]:
    with tempfile.TemporaryDirectory(prefix="reslab-") as folder:
        path = Path(folder) / "shard.tar"
        fetch(url, path)
        try:
            return look_through(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), url)) from None
