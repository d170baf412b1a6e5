"""Read files by http and https from any byte on; after a broken connection reading resumes where it broke."""

import contextlib
import http.client
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from reslab.spec.errors import invalid

SCHEMES = ("https", "http")
TIMEOUT_SECONDS = 60.0
MAX_FILE_BYTES = 64 << 30
"""A body that is longer, or has no end, is an error."""
MAX_READ_SECONDS = 6 * 3600.0
MIN_BYTES_PER_SECOND = 4096.0
"""Reading slower than this over `SLOW_SECONDS` is an error; the time in which nothing is read does not count."""
SLOW_SECONDS = 120.0
_MAX_TEXT_BYTES = 1 << 20
_NUM_TRIES = 4
_RETRY_SECONDS = 0.25
_BLOCK_BYTES = 8 << 20
_NOT_FOUND_CODES = (403, 404, 410)  # 403: object stores answer so for missing files too
_TRANSIENT_CODES = (408, 429, 500, 502, 503, 504)  # worth another try
_CONNECTION_ERRORS = (OSError, http.client.HTTPException)  # OSError: refused, lost or timed out


def check_url(url: str) -> str:
    """Return the URL. Raises ValueError unless it is http or https with a host."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        next_step = "share the file by https (a signed URL works), or download it into a folder and name the folder"
        raise invalid("a URL of https or http", url, "https://HOST/train-{000..009}.tar", next_step)
    return url


class UrlNotFoundError(ValueError):
    """The server has no such file, or denies access to it."""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _SameHostRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a server, also from http to https; others raise ValueError with the reason."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        (scheme, host, port), (new_scheme, new_host, new_port) = _origin(req.full_url), _origin(newurl)
        is_upgrade = (scheme, port, new_scheme, new_port) == ("http", 80, "https", 443)
        if new_host != host or not (is_upgrade or (new_scheme, new_port) == (scheme, port)):
            fp.close()
            required = f"a file at {scheme}://{host}:{port}, the server of {req.full_url}"
            next_step = "name the final URL, if you trust that server"
            raise invalid(required, f"a redirect to {newurl}", next_step=next_step)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of http and https alone: urllib's default one would follow redirects to ftp, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
        _SameHostRedirects,
    ):
        opener.add_handler(handler())
    return opener


class UrlFile:
    """A file at a URL, read forwards from `start` on; after a broken connection it reconnects where it broke.

    Raises ValueError naming the URL if the server rejects the request, the connection keeps breaking at one byte, or
    the file exceeds `MAX_FILE_BYTES`, `MAX_READ_SECONDS` or falls below `MIN_BYTES_PER_SECOND`.
    """

    def __init__(self, url: str, start: int = 0, num_bytes: int | None = None) -> None:
        self.url, self.position = check_url(url), start
        self._end = None if num_bytes is None else start + num_bytes
        self._num_read, self._read_seconds = 0, 0.0
        self._slow_since = (0, 0.0)
        self._response = self._open()

    @property
    def version(self) -> list[Any]:
        """The file's length and its ETag or modification time: different when the file has changed."""
        headers = self._response.headers
        return [headers.get("Content-Length"), headers.get("ETag") or headers.get("Last-Modified")]

    def read(self, num_bytes: int = -1) -> bytes:
        """Return the next `num_bytes`, fewer only at the end of the file; by default all that are left."""
        chunks, remaining = [], num_bytes
        while remaining != 0:
            chunk = self._read_chunk(1 << 20 if remaining < 0 else remaining)
            if not chunk:
                break
            chunks.append(chunk)
            remaining -= len(chunk) if remaining > 0 else 0
        return b"".join(chunks)

    def close(self) -> None:
        """Close the connection."""
        self._response.close()

    def __enter__(self) -> "UrlFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_chunk(self, max_bytes: int) -> bytes:
        for attempt in range(_NUM_TRIES):
            with contextlib.suppress(*_CONNECTION_ERRORS):
                chunk = self._read_once(max_bytes)
                if chunk or self._end is None or self.position >= self._end:
                    self.position += len(chunk)
                    return chunk
            self.close()
            time.sleep(_RETRY_SECONDS * 2**attempt)
            self._response = self._open()
        raise ValueError(
            f"{self.url}: the connection broke at byte {self.position:,} of {self._end:,}, {_NUM_TRIES} times"
        )

    def _read_once(self, max_bytes: int) -> bytes:
        """Return what has arrived, without waiting for all of it: a slow server must not block for hours."""
        start = time.monotonic()
        try:
            chunk: bytes = self._response.read1(max_bytes)
        finally:
            self._read_seconds += time.monotonic() - start
        self._num_read += len(chunk)
        if chunk:
            self._check_limits()
        return chunk

    def _check_limits(self) -> None:
        if self._num_read > MAX_FILE_BYTES:
            raise invalid(f"a file of at most {MAX_FILE_BYTES:,} bytes at {self.url}", "more", next_step="divide it")
        if self._read_seconds > MAX_READ_SECONDS:
            required = f"{self.url} within {MAX_READ_SECONDS:,.0f} seconds of reading"
            raise invalid(required, f"{self._num_read:,} bytes in that time", next_step="download it into a folder")
        num_before, seconds_before = self._slow_since
        seconds = self._read_seconds - seconds_before
        if seconds < SLOW_SECONDS:
            return
        rate = (self._num_read - num_before) / seconds
        if rate < MIN_BYTES_PER_SECOND:
            required = f"at least {MIN_BYTES_PER_SECOND:,.0f} bytes a second from {self.url}"
            raise invalid(required, f"{rate:,.0f} over {seconds:,.0f} seconds", next_step="download it into a folder")
        self._slow_since = (self._num_read, self._read_seconds)

    def _open(self) -> Any:
        """Send the request and return the response, read up to the position."""
        last_byte = "" if self._end is None else str(self._end - 1)
        needs_range = self.position > 0 or self._end is not None
        response = _request(self.url, f"bytes={self.position}-{last_byte}" if needs_range else "")
        length = response.headers.get("Content-Length")
        if length is not None and int(length) > MAX_FILE_BYTES:
            response.close()
            required = f"a file of at most {MAX_FILE_BYTES:,} bytes at {self.url}"
            raise invalid(required, f"{int(length):,}", next_step="divide it")
        offset = self.position if response.status == 206 else 0
        file_end = None if length is None else offset + int(length)
        self._end = file_end if self._end is None else self._end if file_end is None else min(self._end, file_end)
        while offset < self.position:  # a server without range requests sends the whole file
            chunk = response.read(min(1 << 20, self.position - offset))
            if not chunk:
                break
            offset += len(chunk)
        return response


def _request(url: str, byte_range: str) -> Any:
    headers = {"User-Agent": "reslab", **({"Range": byte_range} if byte_range else {})}
    error: Exception | None = None
    for attempt in range(_NUM_TRIES):
        try:
            return _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as http_error:
            http_error.close()
            if http_error.code == 416:  # no bytes from there on
                raise ValueError(f"{url}: shorter than when it was indexed") from None
            error = http_error
            if http_error.code not in _TRANSIENT_CODES:
                break
        except _CONNECTION_ERRORS as connection_error:
            error = connection_error
        time.sleep(_RETRY_SECONDS * 2**attempt)
    reason = getattr(error, "reason", None) or error
    code = error.code if isinstance(error, urllib.error.HTTPError) else ""
    error_type = UrlNotFoundError if code in _NOT_FOUND_CODES else ValueError
    raise error_type(f"required: a file that can be downloaded; got: {url} ({f'{code} {reason}'.strip()})")


def read_range(url: str, start: int, num_bytes: int) -> bytes:
    """Return bytes of a URL, read in blocks of 8 MiB of which the last few are kept: evaluation reads neighbors."""
    first_block, last_block = start // _BLOCK_BYTES, (start + num_bytes - 1) // _BLOCK_BYTES
    content = b"".join(_block(url, number) for number in range(first_block, last_block + 1))
    return content[start - first_block * _BLOCK_BYTES :][:num_bytes]


@lru_cache(maxsize=4)
def _block(url: str, number: int) -> bytes:
    with UrlFile(url, number * _BLOCK_BYTES, _BLOCK_BYTES) as file:
        return file.read()


def download_file(url: str, path: Path) -> list[Any]:
    """Download a URL to a path and return its version (`UrlFile.version`).

    Raises ValueError as `UrlFile`, and if the disk has no room for it.
    """
    with UrlFile(url) as file, path.open("wb") as target:
        length, free = int(file.version[0] or 0), shutil.disk_usage(path.parent).free
        if length > free:
            raise invalid(f"{length:,} bytes free in {path.parent} for {url}", f"{free:,}", next_step="set TMPDIR")
        while chunk := file.read(1 << 20):
            target.write(chunk)
        return file.version


def read_optional_text(url: str) -> str | None:
    """Return the text of a small file at a URL; None if there is no such file.

    Raises ValueError if it is longer than 1 MiB or not UTF-8.
    """
    try:
        with UrlFile(url) as file:
            content = file.read(_MAX_TEXT_BYTES + 1)
    except UrlNotFoundError:
        return None
    if len(content) > _MAX_TEXT_BYTES:
        raise invalid(f"at most {_MAX_TEXT_BYTES:,} bytes of text at {url}", "more")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(f"{url} in UTF-8", str(error)) from None
