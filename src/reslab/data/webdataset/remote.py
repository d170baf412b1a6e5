"""WebDataset shards by URL: expand their names, download each once, and index it."""

import importlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
