"""Published weights brought into torch's hub cache, whole and of the right hash or not at all."""

import errno
import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch.hub

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.runtime.files import atomic_path
from reslab.spec.errors import invalid

TIMEOUT_SECONDS = 20.0
_CHUNK = 1 << 18
# A full disk or a folder that cannot be written is no reason to go on without weights.
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR)


class WeightsUnavailableError(ValueError):
    """Published weights that cannot be had: none are published, no network, or an extra is missing."""


def cache_dir() -> Path:
    """Where torch's hub keeps checkpoints, torchvision's among them (`TORCH_HOME` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(url: str, hash_prefix: str, description: str, directory: Path | None = None) -> Path:
    """The file of a URL in `folder` (torch's hub cache), fetched where it is not there, and its SHA-256 checked.

    `RESLAB_WEIGHTS_URL` replaces all of the URL but the file's name, for mirrors. A download is renamed to its place
    when it is whole and its hash begins with `hash_prefix`; else nothing of it stays. Raises WeightsUnavailable where
    it cannot be fetched, naming the file and its place, and CheckpointError where the hash is another.
    """
    directory = directory or cache_dir()
    name = Path(urlparse(url).path).name
    path = directory / name
    if path.is_file():
        _check_cached_hash(path, hash_prefix)
        return path
    mirror = os.environ.get("RESLAB_WEIGHTS_URL")
    url = f"{mirror.rstrip('/')}/{name}" if mirror else url
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _download(url, path, hash_prefix)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        elif isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS and not isinstance(error, URLError):
            raise OSError(error.errno, f"{error.strerror}: {name} could not be written", str(directory)) from error
        got = f"{url} cannot be read ({error or type(error).__name__})"
        step = f"fetch {url} elsewhere and put it at {path}"
        raise WeightsUnavailableError(
            str(invalid(f"a network to fetch {description}, or the file {name} in {directory}", got, next_step=step))
        ) from error
    return path


def _check_cached_hash(path: Path, hash_prefix: str) -> None:
    actual_hash = file_hash(path)
    if not actual_hash.startswith(hash_prefix):
        step = f"delete {path}: it is then fetched anew"
        raise CheckpointError(
            str(
                invalid(
                    f"a file whose SHA-256 begins with {hash_prefix}",
                    f"{path} with {actual_hash[:16]}...",
                    next_step=step,
                )
            )
        )


def _download(url: str, path: Path, hash_prefix: str) -> None:
    digest = hashlib.sha256()
    with atomic_path(path) as partial:
        with urlopen(Request(url, headers={"User-Agent": "reslab"}), timeout=TIMEOUT_SECONDS) as response:
            size = int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
            with partial.open("wb") as file, _progress_bar(size, path.name) as bar:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
        received = partial.stat().st_size
        if size is not None and received != size:
            raise OSError(f"cut short: {received:,} of {size:,} bytes came")
        if not digest.hexdigest().startswith(hash_prefix):
            got = f"{url} with {digest.hexdigest()[:16]}..."
            step = "it was not kept; try again, or check the mirror"
            raise CheckpointError(str(invalid(f"a file whose SHA-256 begins with {hash_prefix}", got, next_step=step)))


def _progress_bar(size: int | None, name: str) -> Any:
    """torch.hub's own progress bar on standard error: tqdm where it is installed, torch's plain one where not."""
    bar = vars(torch.hub)["tqdm"]
    return bar(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=name)
