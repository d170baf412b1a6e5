"""Download published weights into torch's hub cache; a file appears there only when its hash is right."""

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

from reslab.nn.checkpoints.load_report import invalid_checkpoint
from reslab.runtime.files import atomic_path
from reslab.spec.errors import invalid

TIMEOUT_SECONDS = 20.0
_CHUNK = 1 << 18
# A full disk or a read-only folder is an error of this machine, not a missing network: raise it as it is.
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR)


class WeightsUnavailableError(ValueError):
    """Published weights are unavailable: none are published, there is no network, or an extra is not installed.

    `next_step` says what to do about it.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


def weights_unavailable(required: str, got: object, nearest: str = "", next_step: str = "") -> WeightsUnavailableError:
    """Return the WeightsUnavailableError with the message of `reslab.spec.errors.invalid`."""
    return WeightsUnavailableError(str(invalid(required, got, nearest, next_step)), next_step)


def hub_checkpoints_dir() -> Path:
    """Return the folder of torch's hub for checkpoints, which torchvision uses too (`TORCH_HOME` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(url: str, hash_prefix: str, description: str, directory: Path | None = None) -> Path:
    """Return the path of a URL's file in `directory` (torch's hub cache); download it if needed and check its SHA-256.

    `RESLAB_WEIGHTS_URL` replaces the URL except for the file's name, for mirrors. A download is kept only if it is
    complete and its hash begins with `hash_prefix`. Raises WeightsUnavailableError, naming the file and where to put
    it, if it cannot be downloaded, and CheckpointError if the hash differs.
    """
    directory = directory or hub_checkpoints_dir()
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
        step = f"download {url} elsewhere and put it at {path}"
        required = f"an internet connection to download {description}, or the file {name} in {directory}"
        raise weights_unavailable(required, got, next_step=step) from error
    return path


def _check_cached_hash(path: Path, hash_prefix: str) -> None:
    actual_hash = file_hash(path)
    if not actual_hash.startswith(hash_prefix):
        got = f"{path} with {actual_hash[:16]}..."
        step = f"delete {path}: it is then downloaded again"
        raise invalid_checkpoint(f"a file whose SHA-256 begins with {hash_prefix}", got, next_step=step)


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
            raise OSError(f"truncated: received {received:,} of {size:,} bytes")
        if not digest.hexdigest().startswith(hash_prefix):
            got = f"{url} with {digest.hexdigest()[:16]}..."
            step = "the download was discarded; try again, or check the mirror"
            raise invalid_checkpoint(f"a file whose SHA-256 begins with {hash_prefix}", got, next_step=step)


def _progress_bar(size: int | None, name: str) -> Any:
    """Return torch.hub's progress bar on standard error: tqdm if it is installed, else torch's plain one."""
    bar = vars(torch.hub)["tqdm"]
    return bar(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=name)
