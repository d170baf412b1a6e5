"""Decoding of untrusted images: format and size are read from the header and checked before anything is decoded."""

import base64
import io
import struct
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.jpeg import is_simple_jpeg
from reslab.deploy.inputs import InferenceTransform
from reslab.deploy.server.errors import HTTPError, http_error

IMAGE_FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))  # JPEG markers without a length
_SCAN_MARKER, _END_MARKER = 0xDA, 0xD9
# Blocks or markers to walk through before a file is rejected: real ones have a few dozen.
_MAX_STEPS = 4096
# An image of 16 MB has 2048 chunks of pixels if written by libpng, 8192 bytes each; other writers make more.
_MAX_CHUNKS = 20_000
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class ImageHeader:
    """The format of an image (one of IMAGE_FORMATS), its width and height in pixels."""

    image_format: str
    width: int
    height: int


def read_image_header(content: bytes) -> ImageHeader | None:
    """Read the header of an image file; None for other formats and for files that end before the size."""
    for image_format, signature, read_size in _SIZE_READERS:
        if content.startswith(signature):
            try:
                size = read_size(content)
            except struct.error:
                return None
            return None if size is None or min(size) < 1 else ImageHeader(image_format, *size)
    return None


def _png_size(content: bytes) -> tuple[int, int] | None:
    chunk_type, width, height = struct.unpack_from(">4sII", content, 12)
    return (width, height) if chunk_type == b"IHDR" and _has_few_chunks(content) else None


def _has_few_chunks(content: bytes) -> bool:
    """Whether a PNG has a plausible number of chunks: decoders spend time on each, even if it is empty."""
    offset = len(_PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if offset + 8 > len(content):
            return True
        offset += 12 + int.from_bytes(content[offset : offset + 4])
    return False


def _gif_size(content: bytes) -> tuple[int, int] | None:
    """Return the canvas size, enlarged like in decoders if the first frame reaches beyond it."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    offset = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(_MAX_STEPS):
        if content[offset : offset + 1] == b",":
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", content, offset + 1)
            return max(width, left + frame_width), max(height, top + frame_height)
        if content[offset : offset + 1] != b"!":
            return None
        offset = _skip_blocks(content, offset + 2)
    return None


def _skip_blocks(content: bytes, offset: int) -> int:
    """Return the offset after a GIF's data sub-blocks, which end with length 0."""
    for _ in range(_MAX_STEPS):
        length = content[offset] if offset < len(content) else 0
        offset += 1 + length
        if not length:
            return offset
    return len(content)


def _bmp_size(content: bytes) -> tuple[int, int] | None:
    (header_size,) = struct.unpack_from("<I", content, 14)
    if header_size == 12:
        return struct.unpack_from("<HH", content, 18)
    width, height = struct.unpack_from("<ii", content, 18)
    return width, abs(height)  # a negative height is an image stored from the top


def _webp_size(content: bytes) -> tuple[int, int] | None:
    chunk_type = content[12:16]
    if content[8:12] != b"WEBP":
        return None
    if chunk_type == b"VP8X":
        fields = struct.unpack_from("<HBHB", content, 24)
        return 1 + fields[0] + (fields[1] << 16), 1 + fields[2] + (fields[3] << 16)
    if chunk_type == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk_type == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return the largest frame declared before the first scan: which one a decoder uses is not defined."""
    offset, largest = 2, (0, 0)
    for _ in range(_MAX_STEPS):
        prefix, marker, length = struct.unpack_from(">BBH", content, offset)
        if prefix != 0xFF:
            return None
        if marker in (_SCAN_MARKER, _END_MARKER):
            return largest
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", content, offset + 5)
            largest = max(largest, (width, height), key=lambda size: size[0] * size[1])
        offset += 1 if marker == 0xFF else 2 if marker in _STANDALONE_MARKERS else 2 + length
    return None


_SIZE_READERS = (
    ("JPEG", b"\xff\xd8\xff", _jpeg_size),
    ("PNG", _PNG_SIGNATURE, _png_size),
    ("WebP", b"RIFF", _webp_size),
    ("GIF", b"GIF87a", _gif_size),
    ("GIF", b"GIF89a", _gif_size),
    ("BMP", b"BM", _bmp_size),
)


# Longer side / shorter side. Resizing the shorter side to the network's size enlarges the longer one too.
MAX_ASPECT_RATIO = 64


def check_image_header(content: bytes, max_pixels: int) -> ImageHeader:
    """Return the header of an image that is safe to decode.

    Raises HTTPError: 415 for an unsupported format, 413 for more than `max_pixels`, 422 for an extreme aspect ratio,
    which resizing would blow up.
    """
    header = read_image_header(content)
    if header is None:
        got = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "no bytes"
        raise http_error(415, f"an image ({', '.join(IMAGE_FORMATS)})", got, "save it in one of these formats")
    _check_size(header.width, header.height, max_pixels)
    return header


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise http_error(413, f"an image of at most {max_pixels:,} pixels", f"{width}x{height}", "make it smaller")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        required = f"an image whose longer side is at most {MAX_ASPECT_RATIO} times the shorter one"
        raise http_error(422, required, f"{width}x{height}", "crop it")


def check_pillow_size(content: bytes, header: ImageHeader, max_pixels: int) -> None:
    """Check that Pillow reads the same format and an allowed size, before it decodes.

    Raises HTTPError like `check_image_header`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[header.image_format]) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises nearly anything on broken bytes
        got = str(error) or type(error).__name__
        raise http_error(422, "a readable image", got, "save it again") from None
    _check_size(width, height, max_pixels)


def decode_image(content: bytes, transform: InferenceTransform, max_pixels: int) -> Tensor:
    """Return an image prepared for the network, uint8 (C, H, W). Raises HTTPError (413, 415, 422)."""
    header = check_image_header(content, max_pixels)
    if header.image_format != "JPEG" or not is_simple_jpeg(content):
        check_pillow_size(content, header, max_pixels)
    try:
        return transform.apply(read_image(content, transform.preprocess.channels, "the image"))
    except ValueError as error:
        raise HTTPError(422, str(error)) from None


def encode_png(pixels: Tensor) -> bytes:
    """Encode uint8 pixels (1 or 3, H, W) as a PNG file."""
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def png_data_uri(pixels: Tensor) -> str:
    """Encode uint8 pixels (1 or 3, H, W) as a PNG in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"
