"""Read the body of a request under limits and parse it into images and other fields, all in memory.

The images and bytes of all requests in flight are limited too.
"""

import asyncio
import base64
import binascii
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from reslab.deploy.server.errors import HTTPError, http_error, too_many_requests
from reslab.spec.errors import unknown_name


class AdmissionLimiter:
    """Limits the images and bytes of the requests in flight. Used only from the event loop, so it needs no lock.

    One client may hold `max_client_images` of the images and `max_client_bytes` of the bytes (all of them if 0).
    """

    def __init__(
        self, max_images: int, max_bytes: int, *, max_client_images: int = 0, max_client_bytes: int = 0
    ) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.max_client_images = max_client_images or max_images
        self.max_client_bytes = max_client_bytes or max_bytes
        self.num_images = 0
        self.num_bytes = 0
        self.num_client_images: Counter[str] = Counter()
        self.num_client_bytes: Counter[str] = Counter()

    def receive(self, client: str = "") -> "Admission":
        """Return the admission of a request that is being received: it holds bytes, but no image yet.

        Raises HTTPError (429) at the limit of images, so that its body need not be sent.
        """
        self.check_images(1, client)
        return Admission(self, client)

    def admit(self, client: str = "") -> "Admission":
        """Admit a request with one image. Raises HTTPError (429) at the limit."""
        admission = Admission(self, client)
        admission.reserve_images(1)
        return admission

    def check_images(self, count: int, client: str) -> None:
        """Raise HTTPError (429) unless there is room for `count` more images of this client."""
        if self.num_images + count > self.max_images:
            raise too_many_requests(f"{self.num_images} of at most {self.max_images} images in flight")
        held = self.num_client_images[client]
        if held + count > self.max_client_images:
            raise too_many_requests(f"{held} of at most {self.max_client_images} images in flight from this client")


class Admission:
    """The images and bytes reserved by one request of a client, released at the end of its `with` block."""

    def __init__(self, limiter: AdmissionLimiter, client: str) -> None:
        self.limiter, self.client, self.num_images, self.num_bytes = limiter, client, 0, 0

    def reserve_images(self, count: int) -> None:
        """Reserve more images. Raises HTTPError (429)."""
        self.limiter.check_images(count, self.client)
        self.limiter.num_images += count
        self.limiter.num_client_images[self.client] += count
        self.num_images += count

    def reserve_bytes(self, count: int) -> None:
        """Reserve more bytes. Raises HTTPError (429)."""
        limiter = self.limiter
        if limiter.num_bytes + count > limiter.max_bytes:
            raise too_many_requests(f"{limiter.num_bytes} of at most {limiter.max_bytes} bytes in flight")
        held = limiter.num_client_bytes[self.client]
        if held + count > limiter.max_client_bytes:
            raise too_many_requests(f"{held} of at most {limiter.max_client_bytes} bytes in flight from this client")
        limiter.num_bytes += count
        limiter.num_client_bytes[self.client] += count
        self.num_bytes += count

    def __enter__(self) -> "Admission":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, exc_traceback: TracebackType | None
    ) -> None:
        limiter = self.limiter
        limiter.num_images -= self.num_images
        limiter.num_bytes -= self.num_bytes
        limiter.num_client_images[self.client] -= self.num_images
        limiter.num_client_bytes[self.client] -= self.num_bytes
        for held in (limiter.num_client_images, limiter.num_client_bytes):
            if not held[self.client]:
                del held[self.client]
        self.num_images = self.num_bytes = 0


@dataclass(frozen=True)
class FormPart:
    """A form field: its name and content; `is_file` if it was sent with a file name."""

    name: str
    content: bytes
    is_file: bool


class _FormCollector:
    """The callbacks of the multipart parser."""

    def __init__(self, max_parts: int) -> None:
        self.max_parts = max_parts
        self.parts: list[FormPart] = []
        self.is_complete = False
        self._header_name, self._header_value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._content: list[bytes] = []

    def on_part_begin(self) -> None:
        self._headers, self._content = {}, []
        if len(self.parts) >= self.max_parts:
            raise http_error(413, f"a form of at most {self.max_parts} fields", "more", "send several requests")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        self.parts.append(FormPart(name, b"".join(self._content), b"filename" in options))

    def on_end(self) -> None:
        self.is_complete = True


def read_form(content: bytes, content_type: str, max_parts: int) -> list[FormPart]:
    """Return the fields of a form in order.

    Raises HTTPError: 400 for a form that cannot be parsed or is incomplete, 413 for more than `max_parts` fields.
    """
    _, options = parse_options_header(content_type)
    collector = _FormCollector(max_parts)
    callback_names = (name for name in dir(collector) if name.startswith("on_"))
    try:
        parser = MultipartParser(options[b"boundary"], {name: getattr(collector, name) for name in callback_names})  # type: ignore[arg-type]
        parser.write(content)
        parser.finalize()
    except KeyError:
        raise http_error(400, "a form with a boundary", repr(content_type[:80]), "with curl: -F image=@FILE") from None
    except FormParserError as error:
        raise http_error(400, "a valid form", str(error), "with curl: -F image=@FILE") from None
    if not collector.is_complete:
        raise http_error(400, "a complete form", f"{len(content)} bytes without the closing boundary", "send it again")
    return collector.parts


_IMAGE_FIELDS = ("image", "images")
_ABLATION_FIELD = "ablation"
# Up to this multiple of the limit is read and discarded, so that a caller that is still sending gets the response.
_DRAIN_FACTOR = 4
MIN_BYTES_PER_SECOND = 1024
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class RequestBody:
    """The images of a request, as bytes, and its other fields; `client` identifies its sender."""

    images: tuple[bytes, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""


async def read_request_bytes(
    request: Request, max_bytes: int, on_bytes: Callable[[int], None], timeout_seconds: float
) -> bytes:
    """Return the whole body; `on_bytes` is called with the size of every chunk and may raise.

    Raises HTTPError: 413 for a body longer than `max_bytes`, 408 if it takes longer than `timeout_seconds` or arrives
    at less than MIN_BYTES_PER_SECOND after GRACE_SECONDS, 400 if the connection ends early.
    """
    started = asyncio.get_running_loop().time()
    grace_seconds = min(GRACE_SECONDS, timeout_seconds)
    num_bytes = 0

    def count_bytes(count: int) -> None:
        nonlocal num_bytes
        num_bytes += count
        seconds = min(grace_seconds + num_bytes / MIN_BYTES_PER_SECOND, timeout_seconds)
        time_limit.reschedule(started + seconds)
        on_bytes(count)

    try:
        async with asyncio.timeout(grace_seconds) as time_limit:
            return await _read_stream(request, max_bytes, count_bytes)
    except ClientDisconnect:  # nobody reads this response; it keeps log and metrics free of a server error
        raise http_error(400, "a complete body", "a part of it before the connection ended", "send it again") from None
    except TimeoutError:
        required = f"a body within {timeout_seconds:g} seconds, at {MIN_BYTES_PER_SECOND} or more bytes a second"
        step, headers = "send it again over a faster connection", {"Connection": "close"}
        raise http_error(408, required, f"{num_bytes} bytes of it", step, headers) from None


async def _read_stream(request: Request, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    chunks: list[bytes] = []
    num_bytes, max_read_bytes = 0, _DRAIN_FACTOR * max_bytes
    content_length = request.headers.get("content-length", "")
    if content_length.isascii() and content_length.isdigit() and int(content_length) > max_read_bytes:
        raise _body_too_large(max_bytes, content_length)
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_read_bytes:
            break
        if num_bytes > max_bytes:
            chunks.clear()
            continue
        on_bytes(len(chunk))
        chunks.append(chunk)
    if num_bytes > max_bytes:
        raise _body_too_large(max_bytes, f"{num_bytes:,}" if num_bytes <= max_read_bytes else "many more")
    return b"".join(chunks)


def _body_too_large(max_bytes: int, got: str) -> HTTPError:
    step = "send fewer or smaller images"
    return http_error(413, f"a body of at most {max_bytes:,} bytes", got, step, {"Connection": "close"})


def parse_body(content: bytes, headers: Headers, allowed_fields: Sequence[str], max_images: int) -> RequestBody:
    """Parse a body by its content type: JSON, a form, or the bytes of one image; it may also have `allowed_fields`.

    Raises HTTPError: 415 for another content type, 400 for invalid JSON or an invalid form, 413 for more than
    `max_images`, 422 for unknown fields.
    """
    content_type = headers.get("content-type", "application/octet-stream")
    media_type = content_type.partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity") != "identity":
        raise http_error(415, "an uncompressed body", headers["content-encoding"], "leave out Content-Encoding")
    if media_type == "application/json":
        body = _parse_json(content, allowed_fields)
    elif media_type == "multipart/form-data":
        body = _parse_form(content, content_type, allowed_fields, max_images)
    elif media_type == "application/octet-stream" or media_type.startswith("image/"):
        body = RequestBody((content,) if content else ())
    else:
        step = "with curl: -H 'Content-Type: image/jpeg' --data-binary @FILE, or -F image=@FILE"
        raise http_error(415, "image/*, multipart/form-data or application/json", media_type, step)
    if len(body.images) > max_images:
        raise http_error(413, f"at most {max_images} images per request", len(body.images), "send several requests")
    return body


def _parse_json(content: bytes, allowed_fields: Sequence[str]) -> RequestBody:
    payload = _parse_json_object(content)
    for name in payload:
        if name not in (*_IMAGE_FIELDS, *allowed_fields):
            raise HTTPError(422, str(unknown_name("field", name, (*_IMAGE_FIELDS, *allowed_fields))))
    if "image" in payload and "images" in payload:
        raise http_error(422, "one of image and images", "both", "leave one of them out")
    images = payload.get("images", [])
    if not isinstance(images, list):
        raise http_error(422, "images as a list of base64 strings", type(images).__name__)
    encoded_images = [payload["image"]] if "image" in payload else images
    return RequestBody(
        tuple(_decode_base64(text) for text in encoded_images),
        {key: payload[key] for key in allowed_fields if key in payload},
    )


# The largest ablation has 3000 names of blocks; base64 has none of these characters, so the images do not count.
_JSON_SYNTAX = (b'"', b",", b":", b"[", b"{")
_MAX_JSON_SYNTAX = 50_000


def _parse_json_object(content: bytes) -> dict[str, Any]:
    # A million values take seconds to parse, in which no other thread of the process runs.
    num_syntax = sum(content.count(character) for character in _JSON_SYNTAX)
    if num_syntax > _MAX_JSON_SYNTAX:
        raise http_error(413, "a JSON body of a few thousand values", f"{num_syntax} quotes, commas and brackets")
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise http_error(
            400, "a body in JSON", f"{type(error).__name__}: {error}", "check its brackets and commas"
        ) from None
    if not isinstance(payload, dict):
        raise http_error(422, 'a JSON object such as {"image": "..."}', type(payload).__name__)
    return payload


def _decode_base64(text: Any) -> bytes:
    """Decode base64, with or without the prefix `data:image/png;base64,` of browsers."""
    if not isinstance(text, str):
        raise http_error(422, "an image in base64", type(text).__name__)
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise http_error(422, "an image in base64", str(error), "encode the bytes of the file") from None


def _parse_form(content: bytes, content_type: str, allowed_fields: Sequence[str], max_images: int) -> RequestBody:
    images: list[bytes] = []
    fields: dict[str, Any] = {}
    for part in read_form(content, content_type, max_images + 8):
        if part.name in _IMAGE_FIELDS:
            images.append(part.content if part.is_file else _decode_base64(part.content.decode(errors="replace")))
        elif part.name == _ABLATION_FIELD and allowed_fields:
            fields |= _parse_json(part.content, allowed_fields).fields
        else:
            raise HTTPError(
                422,
                str(
                    unknown_name("field", part.name, (*_IMAGE_FIELDS, *((_ABLATION_FIELD,) if allowed_fields else ())))
                ),
            )
    return RequestBody(tuple(images), fields)
