"""What a picture is and how large, from the first bytes of its file: nothing is decoded, no library is asked.

A picture that came over the wire, guarded before it is decoded, then made ready for a network.
"""

import base64
import io
import struct
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from reslab.data.decode import is_ordinary, read_picture
from reslab.deploy.predict import Preparation
from reslab.deploy.server.errors import Refused, refused

KINDS = ("JPEG", "PNG", "WebP", "GIF", "BMP")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # JPEG markers without a length
_SCAN, _END = 0xDA, 0xD9
# Blocks or markers that are walked through before a file is given up: real ones have a few dozen.
_MOST_STEPS = 4096
# Of a picture of 16 MB, in the 8192 bytes that libpng writes at once, 2048 hold pixels; of other writers more.
_MOST_CHUNKS = 20_000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Header:
    """The kind of a picture (one of KINDS), its width and height in pixels."""

    kind: str
    width: int
    height: int


def read_header(content: bytes) -> Header | None:
    """The header of a picture's file; None where the bytes are no picture of KINDS or end before the size is told."""
    for kind, sign, read in _READERS:
        if content.startswith(sign):
            try:
                size = read(content)
            except struct.error:
                return None
            return None if size is None or min(size) < 1 else Header(kind, *size)
    return None


def _png(content: bytes) -> tuple[int, int] | None:
    name, width, height = struct.unpack_from(">4sII", content, 12)
    return (width, height) if name == b"IHDR" and _few_chunks(content) else None


def _few_chunks(content: bytes) -> bool:
    """Whether a PNG holds no more chunks than real ones do: decoders take their time over each, however empty."""
    place = len(_PNG)
    for _ in range(_MOST_CHUNKS):
        if place + 8 > len(content):
            return True
        place += 12 + int.from_bytes(content[place : place + 4])
    return False


def _gif(content: bytes) -> tuple[int, int] | None:
    """The canvas, made larger by a first frame that reaches beyond it, as decoders do."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(_MOST_STEPS):
        if content[place : place + 1] == b",":
            left, top, wide, high = struct.unpack_from("<HHHH", content, place + 1)
            return max(width, left + wide), max(height, top + high)
        if content[place : place + 1] != b"!":
            return None
        place = _after_blocks(content, place + 2)
    return None


def _after_blocks(content: bytes, place: int) -> int:
    """Where a GIF goes on after blocks that tell their lengths, the last one 0; the end where there are too many."""
    for _ in range(_MOST_STEPS):
        length = content[place] if place < len(content) else 0
        place += 1 + length
        if not length:
            return place
    return len(content)


def _bmp(content: bytes) -> tuple[int, int] | None:
    (length,) = struct.unpack_from("<I", content, 14)
    if length == 12:
        return struct.unpack_from("<HH", content, 18)
    width, height = struct.unpack_from("<ii", content, 18)
    return width, abs(height)  # a negative height is a picture stored from the top


def _webp(content: bytes) -> tuple[int, int] | None:
    name = content[12:16]
    if content[8:12] != b"WEBP":
        return None
    if name == b"VP8X":
        parts = struct.unpack_from("<HBHB", content, 24)
        return 1 + parts[0] + (parts[1] << 16), 1 + parts[2] + (parts[3] << 16)
    if name == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(content: bytes) -> tuple[int, int] | None:
    """The largest of all frames told before the first scan: which one a decoder takes is its own affair."""
    place, found = 2, (0, 0)
    for _ in range(_MOST_STEPS):
        sign, marker, length = struct.unpack_from(">BBH", content, place)
        if sign != 0xFF:
            return None
        if marker in (_SCAN, _END):
            return found
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 5)
            found = max(found, (width, height), key=lambda size: size[0] * size[1])
        place += 1 if marker == 0xFF else 2 if marker in _ALONE else 2 + length
    return None


_READERS = (
    ("JPEG", b"\xff\xd8\xff", _jpeg),
    ("PNG", _PNG, _png),
    ("WebP", b"RIFF", _webp),
    ("GIF", b"GIF87a", _gif),
    ("GIF", b"GIF89a", _gif),
    ("BMP", b"BM", _bmp),
)


# Longer side by shorter side. The shorter side is scaled to the network's, and the longer one grows with it.
MOST_STRETCHED = 64


def check_header(content: bytes, max_pixels: int) -> Header:
    """The header of a picture that may be decoded.

    Raises Refused: 415 for what is no picture of a kind that is read here, 413 for more pixels than `max_pixels`, 422
    for a strip that scaling would blow up.
    """
    header = read_header(content)
    if header is None:
        got = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "no bytes"
        raise refused(415, f"a picture ({', '.join(KINDS)})", got, "save it in one of these formats")
    _check_size(header.width, header.height, max_pixels)
    return header


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise refused(413, f"a picture of at most {max_pixels:,} pixels", f"{width}x{height}", "make it smaller")
    if max(width, height) > MOST_STRETCHED * min(width, height):
        required = f"a picture whose longer side is at most {MOST_STRETCHED} times the shorter one"
        raise refused(422, required, f"{width}x{height}", "crop it")


def check_opened(content: bytes, header: Header, max_pixels: int) -> None:
    """Whether Pillow reads the same kind and no larger size from the header, so that none but its decoder is asked.

    Raises Refused as `check_header`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[header.kind]) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises nearly anything on broken bytes
        got = str(error) or type(error).__name__
        raise refused(422, "a picture that can be read", got, "save it again") from None
    _check_size(width, height, max_pixels)


def ready(content: bytes, prepare: Preparation, max_pixels: int) -> Tensor:
    """uint8 (C, H, W) as the network takes it. Raises Refused (413, 415, 422)."""
    header = check_header(content, max_pixels)
    if header.kind != "JPEG" or not is_ordinary(content):
        check_opened(content, header, max_pixels)
    try:
        return prepare.prepare(read_picture(content, prepare.preprocess.channels, "the picture", header.kind.lower()))
    except ValueError as error:
        raise Refused(422, str(error)) from None


def picture_png(pixels: Tensor) -> bytes:
    """uint8 (1 or 3, H, W) as a PNG file."""
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def picture_uri(pixels: Tensor) -> str:
    """uint8 (1 or 3, H, W) as a PNG in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(picture_png(pixels)).decode()}"
