"""Files by URL: http and https, read from any byte on, gone on with where a connection breaks."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Any

from reslab.spec.errors import invalid

SCHEMES = ("https", "http")
TIMEOUT_SECONDS = 60.0
_NUM_TRIES = 4
_FIRST_PAUSE_SECONDS = 0.25
_BLOCK_BYTES = 8 << 20
_NOT_THERE = (403, 404, 410)  # 403: how object stores put it to strangers
_PASSING = (408, 429, 500, 502, 503, 504)  # what may go well in a moment
_BROKEN = (OSError, http.client.HTTPException)  # OSError: no connection, none any more, too slow


def check_url(url: str) -> str:
    """The URL, where it is one of http or https with a host. Raises ValueError where it is another kind."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        step = "share the file by https (a signed address will do), or fetch it into a folder and name the folder"
        raise invalid("a URL of https or http", url, "https://HOST/train-{000..009}.tar", step)
    return url


class NotThere(ValueError):
    """The server has no such file, or does not show it."""


class UrlFile:
    """The bytes of a URL from `start` on, as a file to read forwards; a broken connection is taken up where it broke.

    Raises ValueError, naming the URL, where the server refuses it, or it breaks several times at one place.
    """

    def __init__(self, url: str, start: int = 0, num_bytes: int | None = None) -> None:
        self.url, self.position = check_url(url), start
        self._end = None if num_bytes is None else start + num_bytes
        self._answer = self._opened()

    @property
    def version(self) -> list[Any]:
        """What changes where the file does: its length and the server's word for its version."""
        headers = self._answer.headers
        return [headers.get("Content-Length"), headers.get("ETag") or headers.get("Last-Modified")]

    def read(self, num_bytes: int = -1) -> bytes:
        """The next bytes, all that are left where none are asked for; fewer only at the end."""
        found, left = [], num_bytes
        while left != 0:
            part = self._part(1 << 20 if left < 0 else left)
            if not part:
                break
            found.append(part)
            left -= len(part) if left > 0 else 0
        return b"".join(found)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()

    def __enter__(self) -> "UrlFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _part(self, most: int) -> bytes:
        for tried in range(_NUM_TRIES):
            try:
                part: bytes = self._answer.read(most)
                if part or self._end is None or self.position >= self._end:
                    self.position += len(part)
                    return part
            except _BROKEN:
                pass
            self.close()
            time.sleep(_FIRST_PAUSE_SECONDS * 2**tried)
            self._answer = self._opened()
        raise ValueError(f"{self.url}: cut short at byte {self.position:,} of {self._end:,}, {_NUM_TRIES} times over")

    def _opened(self) -> Any:
        """The server's answer, read up to the position."""
        last = "" if self._end is None else str(self._end - 1)
        ranged = self.position > 0 or self._end is not None
        answer = _answer(self.url, f"bytes={self.position}-{last}" if ranged else "")
        length = answer.headers.get("Content-Length")
        here = self.position if answer.status == 206 else 0
        whole = None if length is None else here + int(length)
        self._end = whole if self._end is None else self._end if whole is None else min(self._end, whole)
        while here < self.position:  # a server that does not know of ranges begins at the beginning
            part = answer.read(min(1 << 20, self.position - here))
            if not part:
                break
            here += len(part)
        return answer


def _answer(url: str, wanted: str) -> Any:
    headers = {"User-Agent": "reslab", **({"Range": wanted} if wanted else {})}
    error: Exception | None = None
    for tried in range(_NUM_TRIES):
        try:
            return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code == 416:  # nothing from there on
                raise ValueError(f"{url}: shorter than it was when it was indexed") from None
            error = answer
            if answer.code not in _PASSING:
                break
        except _BROKEN as broken:
            error = broken
        time.sleep(_FIRST_PAUSE_SECONDS * 2**tried)
    reason = getattr(error, "reason", None) or error
    code = error.code if isinstance(error, urllib.error.HTTPError) else ""
    kind = NotThere if code in _NOT_THERE else ValueError
    raise kind(f"required: a file that can be fetched; got: {url} ({f'{code} {reason}'.strip()})")


def read_range(url: str, start: int, num_bytes: int) -> bytes:
    """Some bytes of a URL; neighbours are fetched together, in blocks of 8 MiB, and the last few blocks kept."""
    first, last = start // _BLOCK_BYTES, (start + num_bytes - 1) // _BLOCK_BYTES
    near = b"".join(_block(url, number) for number in range(first, last + 1))
    return near[start - first * _BLOCK_BYTES :][:num_bytes]


@lru_cache(maxsize=4)
def _block(url: str, number: int) -> bytes:
    with UrlFile(url, number * _BLOCK_BYTES, _BLOCK_BYTES) as file:
        return file.read()


def fetch(url: str, path: Path) -> list[Any]:
    """Write the whole file of a URL to a path; what changes where it does (`UrlFile.version`)."""
    with UrlFile(url) as file, path.open("wb") as copy:
        while part := file.read(1 << 20):
            copy.write(part)
        return file.version


def text_if_there(url: str) -> str | None:
    """The text of a small file by URL; None where there is none."""
    try:
        with UrlFile(url) as file:
            return file.read(1 << 20).decode("utf-8")
    except NotThere:
        return None
