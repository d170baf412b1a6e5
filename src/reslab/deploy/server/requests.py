"""The body of a request: read under a limit, then taken apart into pictures and what else was asked.

multipart/form-data taken apart in memory: nothing is written to a disk, whatever its size.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from reslab.deploy.server.errors import Refused, refused
from reslab.spec.errors import unknown_name


@dataclass(frozen=True)
class Part:
    """A field of a form: its name and bytes; `is_file` where it came with a file's name."""

    name: str
    content: bytes
    is_file: bool


class _Gathering:
    """What the parser calls while it reads."""

    def __init__(self, max_parts: int) -> None:
        self.max_parts = max_parts
        self.parts: list[Part] = []
        self.ended = False
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._content: list[bytes] = []

    def on_part_begin(self) -> None:
        self._headers, self._content = {}, []
        if len(self.parts) >= self.max_parts:
            raise refused(413, f"a form of at most {self.max_parts} fields", "more", "send several requests")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        self.parts.append(Part(name, b"".join(self._content), b"filename" in options))

    def on_end(self) -> None:
        self.ended = True


def read_form(content: bytes, content_type: str, max_parts: int) -> list[Part]:
    """The fields of a form in their order.

    Raises Refused: 400 for one that cannot be read or is cut short, 413 for more than `max_parts` fields.
    """
    _, options = parse_options_header(content_type)
    found = _Gathering(max_parts)
    names = (name for name in dir(found) if name.startswith("on_"))
    try:
        parser = MultipartParser(options[b"boundary"], {name: getattr(found, name) for name in names})  # type: ignore[arg-type]
        parser.write(content)
        parser.finalize()
    except KeyError:
        raise refused(400, "a form with its boundary", repr(content_type[:80]), "with curl: -F image=@FILE") from None
    except FormParserError as error:
        raise refused(400, "a form that can be read", str(error), "with curl: -F image=@FILE") from None
    if not found.ended:
        raise refused(400, "a whole form", f"{len(content)} bytes without its end", "send it again")
    return found.parts


_FIELDS = ("image", "images")
_PLAN = "plan"
# Of a body that is too long so much more is read and forgotten, so that the caller, still sending, hears why.
_PATIENCE = 4


@dataclass(frozen=True)
class Body:
    """The pictures of a request, as bytes, and its other fields."""

    images: tuple[bytes, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


async def read_bytes(request: Request, max_bytes: int, take: Callable[[int], None], seconds: float) -> bytes:
    """The whole body; `take` hears of every piece as it comes, and may refuse.

    Raises Refused: 413 as soon as it is longer than `max_bytes`, 408 where it has not come in `seconds`, 400 where it
    is cut short.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _gather(request, max_bytes, take)
    except ClientDisconnect:  # nobody hears it any more; the log and the metrics do not take it for a fault
        raise refused(
            400, "a whole body", "only a part of it, then the end of the connection", "send it again"
        ) from None
    except TimeoutError:
        raise refused(408, f"a body within {seconds:g} seconds", "only a part of it", "send it again") from None


async def _gather(request: Request, max_bytes: int, take: Callable[[int], None]) -> bytes:
    pieces: list[bytes] = []
    num_bytes, patience = 0, _PATIENCE * max_bytes
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told) > patience:
        raise _too_long(max_bytes, told)
    async for piece in request.stream():
        num_bytes += len(piece)
        if num_bytes > patience:
            break
        if num_bytes > max_bytes:
            pieces.clear()
            continue
        take(len(piece))
        pieces.append(piece)
    if num_bytes > max_bytes:
        raise _too_long(max_bytes, f"{num_bytes:,}" if num_bytes <= patience else "many more")
    return b"".join(pieces)


def _too_long(max_bytes: int, got: str) -> Refused:
    step = "send fewer or smaller pictures"
    return refused(413, f"a body of at most {max_bytes:,} bytes", got, step, {"Connection": "close"})


def read_body(content: bytes, headers: Headers, keys: Sequence[str], max_images: int) -> Body:
    """What the bytes hold, by their content type: JSON, a form, or one picture as it is; `keys` are the other fields.

    Raises Refused: 415 for another type, 400 for JSON or a form that cannot be read, 413 for more than `max_images`,
    422 for fields that are not known.
    """
    told = headers.get("content-type", "application/octet-stream")
    kind = told.partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity") != "identity":
        raise refused(415, "a body that is not compressed", headers["content-encoding"], "send it as it is")
    if kind == "application/json":
        body = _from_json(content, keys)
    elif kind == "multipart/form-data":
        body = _from_form(content, told, keys, max_images)
    elif kind == "application/octet-stream" or kind.startswith("image/"):
        body = Body((content,) if content else ())
    else:
        step = "with curl: -H 'Content-Type: image/jpeg' --data-binary @FILE, or -F image=@FILE"
        raise refused(415, "image/*, multipart/form-data or application/json", kind, step)
    if len(body.images) > max_images:
        raise refused(413, f"at most {max_images} pictures a request", len(body.images), "send several requests")
    return body


def _from_json(content: bytes, keys: Sequence[str]) -> Body:
    found = _object(content)
    for name in found:
        if name not in (*_FIELDS, *keys):
            raise Refused(422, str(unknown_name("field", name, (*_FIELDS, *keys))))
    if "image" in found and "images" in found:
        raise refused(422, "one of image and images", "both", "leave one of them out")
    several = found.get("images", [])
    if not isinstance(several, list):
        raise refused(422, "images as a list of pictures in base64", type(several).__name__)
    texts = [found["image"]] if "image" in found else several
    return Body(tuple(_from_base64(text) for text in texts), {key: found[key] for key in keys if key in found})


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise refused(
            400, "a body in JSON", f"{type(error).__name__}: {error}", "check its brackets and commas"
        ) from None
    if not isinstance(found, dict):
        raise refused(422, 'a JSON object such as {"image": "..."}', type(found).__name__)
    return found


def _from_base64(text: Any) -> bytes:
    """Bytes of base64, with or without the `data:image/png;base64,` that browsers put ahead."""
    if not isinstance(text, str):
        raise refused(422, "a picture in base64", type(text).__name__)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(422, "a picture in base64", str(error), "encode the bytes of the file") from None


def _from_form(content: bytes, content_type: str, keys: Sequence[str], max_images: int) -> Body:
    images: list[bytes] = []
    fields: dict[str, Any] = {}
    for part in read_form(content, content_type, max_images + 8):
        if part.name in _FIELDS:
            images.append(part.content if part.is_file else _from_base64(part.content.decode(errors="replace")))
        elif part.name == _PLAN and keys:
            fields |= _from_json(part.content, keys).fields
        else:
            raise Refused(422, str(unknown_name("field", part.name, (*_FIELDS, *((_PLAN,) if keys else ())))))
    return Body(tuple(images), fields)
