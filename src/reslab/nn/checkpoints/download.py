"""Download published weights into torch's hub cache; a file appears there only when its hash is right."""

import errno
import hashlib
import os
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch.hub

from reslab.nn.checkpoints.load_report import invalid_checkpoint
from reslab.runtime.files import atomic_path
from reslab.spec.errors import invalid

TIMEOUT_SECONDS = 20.0
MAX_BYTES = 16 << 30
"""The largest file of weights that is downloaded; the largest published ones have 3 GB."""
MIN_BYTES_PER_SECOND = 1024.0
"""A download that is slower than this over `SLOW_SECONDS` is given up."""
SLOW_SECONDS = 60.0
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


class _SecureRedirects(HTTPRedirectHandler):
    """Follows redirects to http and https: to another host or from https only to https. Others are an OSError.

    Publishers redirect to the hosts that store their files; the hash shows that the file is the right one.
    """

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and (new.scheme != "http" or old.scheme != "http" or new.hostname != old.hostname):
            fp.close()
            raise OSError(f"a redirect to {newurl[:200]}: another host needs https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_url(url: str) -> Any:
    """Return the response of a URL of http or https, and of nothing else (a mirror may not be `file:` or `ftp:`)."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError("its scheme is neither https nor http")
    request = Request(url, headers={"User-Agent": "reslab"})
    return build_opener(_SecureRedirects).open(request, timeout=TIMEOUT_SECONDS)


def _declared_size(response: Any) -> int | None:
    text = response.headers["Content-Length"]
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise OSError(f"its length is {text[:40]!r}, not a number of bytes")
    return int(text)


def _check_progress(num_bytes: int, seconds: float) -> None:
    """Raise OSError for a download that is too large or too slow."""
    if num_bytes > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES:,} bytes")
    if seconds > SLOW_SECONDS and num_bytes < seconds * MIN_BYTES_PER_SECOND:
        raise OSError(f"too slow: {num_bytes:,} bytes in {seconds:,.0f} seconds")


def _download(url: str, path: Path, hash_prefix: str) -> None:
    digest, num_received, start = hashlib.sha256(), 0, time.monotonic()
    with atomic_path(path) as partial:
        with _open_url(url) as response:
            size = _declared_size(response)
            _check_progress(size or 0, 0.0)
            with partial.open("wb") as file, _progress_bar(size, path.name) as bar:
                while chunk := response.read1(_CHUNK):  # what has arrived: `read` waits hours for a slow server
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                    num_received += len(chunk)
                    _check_progress(num_received, time.monotonic() - start)
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
