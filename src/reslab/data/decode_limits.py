"""The limits on decoding an image, and the checks of a file against them before any pixel is decoded."""

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, NamedTuple

from reslab.data.image_formats import FORMAT_EXTENSIONS
from reslab.spec.errors import invalid, unknown_name

BYTES_PER_PIXEL = 8
"""Memory that decoding may take per pixel of `DecodeLimits.max_pixels`."""

# Measured peak bytes a pixel while decoding and converting to RGB, of the formats that take more than BYTES_PER_PIXEL.
_FORMAT_BYTES_PER_PIXEL = {"QOI": 10, "AVIF": 12, "WEBP": 16, "HEIF": 16, "JPEG2000": 25}


def bytes_per_pixel(image_format: str) -> int:
    """Return the bytes a pixel that decoding a format takes at its peak, which `max_pixels` is applied to."""
    return _FORMAT_BYTES_PER_PIXEL.get(image_format.upper(), BYTES_PER_PIXEL)


class ImageErrorKind(StrEnum):
    """The reason why an image cannot be read."""

    MISSING = "missing"
    EMPTY = "empty"
    FORMAT = "format"
    EXTRA = "extra"
    DAMAGED = "damaged"
    PIXELS = "pixels"
    LIMIT = "limit"


class ImageError(ValueError):
    """An image cannot be read: `kind` says why, `limit` which field of DecodeLimits it exceeds, if any."""

    def __init__(self, message: str, kind: ImageErrorKind, limit: str = "") -> None:
        super().__init__(message)
        self.kind, self.limit = kind, limit

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, ImageErrorKind, str]]:
        return ImageError, (str(self), self.kind, self.limit)

    def with_name(self, name: str) -> "ImageError":
        """Return the error with the name of the image before its message."""
        return ImageError(f"{name}: {self}", self.kind, self.limit)


NUMERIC_LIMITS = ("max_pixels", "max_file_bytes", "max_scans", "max_scan_pixels", "max_chunks", "max_frames")


def _limit(default: int, help_text: str) -> int:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class DecodeLimits:
    """The largest image that is decoded; what exceeds a limit is refused before its pixels are decoded.

    Decoding takes at most about 8 bytes of memory a pixel of `max_pixels`: formats whose decoders take more (QOI, WebP,
    AVIF, HEIF, JPEG 2000) are held to as many fewer pixels. `formats` are Pillow's names of the formats that are read.
    Raises ValueError for a limit below 1 and an unknown format.
    """

    max_pixels: int = _limit(120_000_000, "height x width")
    max_file_bytes: int = _limit(1 << 30, "size of the file")
    max_scans: int = _limit(100, "scans of a progressive JPEG")
    max_scan_pixels: int = _limit(4_000_000_000, "pixels x scans of a JPEG: each scan visits every pixel")
    max_chunks: int = _limit(100_000, "segments of a JPEG, chunks of a PNG or WebP, blocks of a GIF before its pixels")
    max_frames: int = _limit(10_000, "frames of an animation, of which the first is read")
    formats: tuple[str, ...] = tuple(FORMAT_EXTENSIONS)

    def __post_init__(self) -> None:
        for name in NUMERIC_LIMITS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise invalid(f"{name} of at least 1", value, nearest="1")

        for image_format in self.formats:
            if image_format not in FORMAT_EXTENSIONS:
                raise unknown_name("image format", image_format, FORMAT_EXTENSIONS)

    def check(self, name: str, value: int, what: str) -> None:
        """Raise ImageError if `value` (`what` says of what) exceeds the limit with this name."""
        limit = getattr(self, name)
        if value > limit:
            raise ImageError(
                str(invalid(f"at most {limit:,} {what}", f"{value:,}", next_step=f"raise {name} to read it")),
                ImageErrorKind.LIMIT,
                name,
            )

    def check_size(self, height: int, width: int, image_format: str) -> None:
        """Raise ImageError for an image of no pixels, or of more than may be decoded in this format."""
        if min(height, width) < 1:
            raise ImageError(
                str(invalid("an image of at least 1x1 pixels", f"{height}x{width}")), ImageErrorKind.DAMAGED
            )
        num_bytes = bytes_per_pixel(image_format)
        max_pixels = self.max_pixels * BYTES_PER_PIXEL // num_bytes
        if height * width > max_pixels:
            required = f"an image of at most {max_pixels:,} pixels" + f" in {image_format}" * (
                num_bytes > BYTES_PER_PIXEL
            )
            got = f"{height}x{width}, {height * width:,} pixels"
            next_step = "make it smaller, or raise max_pixels"
            raise ImageError(str(invalid(required, got, next_step=next_step)), ImageErrorKind.LIMIT, "max_pixels")


DEFAULT_LIMITS = DecodeLimits()
_limits_in_force = DEFAULT_LIMITS


def current_limits() -> DecodeLimits:
    """Return the limits of this process: those of `use_limits`, else the defaults."""
    return _limits_in_force


@contextlib.contextmanager
def use_limits(limits: DecodeLimits) -> Iterator[None]:
    """Decode images within `limits` in this process, in the `with` block, wherever no others are given.

    Datasets that are opened in the block keep them, also in the processes of a loader.
    """
    global _limits_in_force
    previous, _limits_in_force = _limits_in_force, limits
    try:
        yield
    finally:
        _limits_in_force = previous


def limits_key() -> list[Any]:
    """Return what marks results in a cache that depend on the limits of this process; nothing for the defaults."""
    return (
        []
        if _limits_in_force == DEFAULT_LIMITS
        else [list(value) if isinstance(value, tuple) else value for value in vars(_limits_in_force).values()]
    )


class FileStructure(NamedTuple):
    """The content of a file if it is a JPEG, or the header if it is a PNG."""

    jpeg: bytes = b""
    png: "PngHeader | None" = None


def check_file(file: BinaryIO, limits: DecodeLimits) -> FileStructure:
    """Check the structure of an open image file against the limits, before anything is decoded.

    Raises ImageError: EMPTY, LIMIT, and DAMAGED if a checksum of a PNG does not fit. The sizes of other formats than
    JPEG, PNG, WebP and GIF are known when Pillow has opened them, which takes no memory for pixels.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    if num_bytes == 0:
        raise ImageError("empty (0 bytes)", ImageErrorKind.EMPTY)
    limits.check("max_file_bytes", num_bytes, "bytes")
    file.seek(0)
    prefix = file.read(16)
    file.seek(0)
    if prefix.startswith(b"\xff\xd8\xff"):
        content = file.read()
        _check_jpeg(content, limits)
        return FileStructure(jpeg=content)
    if prefix.startswith(_PNG_SIGNATURE):
        return FileStructure(png=_check_png(file, limits))
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        _check_webp(file, num_bytes, limits)
    elif prefix.startswith(b"GIF8"):
        _check_gif(file, limits)
    return FileStructure()


class JpegSegment(NamedTuple):
    """A marker of a JPEG and its content, `start` to `stop`; empty for markers without a length."""

    marker: int
    start: int
    stop: int


SCAN_MARKER, END_MARKER, APP1_MARKER = 0xDA, 0xD9, 0xE1
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# A marker, unlike a stuffed byte (FF 00), a restart within a scan (FF D0 to FF D7) and a fill byte (FF FF).
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


def jpeg_segments(content: bytes) -> Iterator[JpegSegment]:
    """Yield the segments of a JPEG up to its end marker, also those after scans, without thumbnails'."""
    offset = 2
    while match := _MARKER.search(content, offset):
        marker, start = content[match.end() - 1], match.end()
        if marker == 0x01 or marker == 0xD8:
            yield JpegSegment(marker, start, start)
            offset = start
            continue
        if marker == END_MARKER or start + 2 > len(content):
            return
        stop = start + max(2, int.from_bytes(content[start : start + 2]))
        yield JpegSegment(marker, start + 2, stop)
        offset = stop


def _check_jpeg(content: bytes, limits: DecodeLimits) -> None:
    num_scans, num_pixels = 0, 0
    for num_segments, segment in enumerate(jpeg_segments(content), 1):
        limits.check("max_chunks", num_segments, "segments in a JPEG")
        if segment.marker == SCAN_MARKER:
            num_scans += 1
        elif segment.marker in FRAME_MARKERS and segment.start + 5 <= len(content):
            height, width = struct.unpack_from(">HH", content, segment.start + 1)
            num_pixels = max(num_pixels, height * width)
            if num_pixels:
                limits.check_size(height, width, "JPEG")
        limits.check("max_scans", num_scans, "scans in a JPEG")
        limits.check("max_scan_pixels", num_scans * num_pixels, f"pixels x scans in a JPEG (it has {num_scans} scans)")


@dataclass(frozen=True)
class PngHeader:
    """The header of a PNG: size in pixels, bits per channel, color type and whether it is interlaced."""

    width: int
    height: int
    bit_depth: int
    color_type: int
    is_interlaced: bool

    @property
    def num_data_bytes(self) -> int:
        """The number of bytes that the pixels take after inflating: rows, each after a byte for its filter."""
        bits = self.bit_depth * _PNG_CHANNELS.get(self.color_type, 1)
        return sum(
            rows * (1 + (columns * bits + 7) // 8)
            for left, top, column_step, row_step in (_ADAM7 if self.is_interlaced else ((0, 0, 1, 1),))
            if (rows := len(range(top, self.height, row_step)))
            and (columns := len(range(left, self.width, column_step)))
        )


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
# The seven passes of an interlaced PNG: first column and row, steps of columns and rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_READ_BYTES = 1 << 20


def _check_png(file: BinaryIO, limits: DecodeLimits) -> PngHeader | None:
    """Return the header after checking the checksums of all chunks that the pixels depend on.

    Pillow does not check those of the pixels; one wrong bit may leave the rest of the image black.
    """
    header: PngHeader | None = None
    for num_chunks, (kind, length) in enumerate(_png_chunks(file), 1):
        limits.check("max_chunks", num_chunks, "chunks in a PNG")
        if kind not in _PNG_PIXEL_CHUNKS:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        checksum, content = _png_checksum(file, kind, length)
        stored = file.read(4)
        if len(stored) < 4:
            return header  # truncated: Pillow says so
        if int.from_bytes(stored) != checksum:
            raise ImageError(f"damaged (the checksum of its chunk {kind.decode()} is wrong)", ImageErrorKind.DAMAGED)
        if kind == b"IHDR" and header is None and length >= 13:
            width, height, depth, color_type, _, _, interlace = struct.unpack_from(">IIBBBBB", content)
            limits.check_size(height, width, "PNG")
            header = PngHeader(width, height, depth, color_type, interlace == 1)
    return header


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield kind and length of every chunk; the file is then at its content, and must be left after its checksum."""
    file.seek(len(_PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
        kind = head[4:]
        if kind == b"IEND":
            return
        yield kind, int.from_bytes(head[:4])


def _png_checksum(file: BinaryIO, kind: bytes, length: int) -> tuple[int, bytes]:
    """Return the checksum of a chunk that is read to its end, and its first bytes."""
    checksum, first, left = zlib.crc32(kind), b"", length
    while left > 0 and (content := file.read(min(left, _READ_BYTES))):
        checksum = zlib.crc32(content, checksum)
        first, left = first or content, left - len(content)
    return checksum, first


def has_all_png_data(file: BinaryIO, header: PngHeader) -> bool:
    """Return True if the pixels of a PNG inflate to as many bytes as its header declares."""
    inflater, num_bytes = zlib.decompressobj(), 0
    for kind, length in _png_chunks(file):
        left = length if kind == b"IDAT" else 0
        while left > 0 and (content := file.read(min(left, _READ_BYTES))):
            left -= len(content)
            while content and num_bytes < header.num_data_bytes:
                num_bytes += len(inflater.decompress(content, _READ_BYTES))
                content = inflater.unconsumed_tail
        if num_bytes >= header.num_data_bytes or inflater.eof:
            break
        file.seek(4 if kind == b"IDAT" else length + 4, os.SEEK_CUR)
    return num_bytes >= header.num_data_bytes


def _check_webp(file: BinaryIO, num_bytes: int, limits: DecodeLimits) -> None:
    """Check the size of the canvas, for which the decoder takes memory as soon as it opens a file."""
    offset, num_frames = 12, 0
    for num_chunks in range(1, limits.max_chunks + 2):
        file.seek(offset)
        head = file.read(18)
        if len(head) < 18 or offset >= num_bytes:
            return
        limits.check("max_chunks", num_chunks, "chunks in a WebP")
        kind, length = head[:4], int.from_bytes(head[4:8], "little")
        size = _webp_size(kind, head[8:])
        if size is not None:
            limits.check_size(*size, "WebP")
        num_frames += kind == b"ANMF"
        limits.check("max_frames", num_frames, "frames in a WebP")
        offset += 8 + length + length % 2


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Return height and width from the first ten bytes of a WebP's chunk; None if it does not declare them."""
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[7:10], "little"), 1 + int.from_bytes(body[4:7], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _check_gif(file: BinaryIO, limits: DecodeLimits) -> None:
    """Check the canvas of a GIF, enlarged as by decoders if the first frame reaches beyond it, and its blocks ahead.

    It finds the frame as Pillow does, which allocates the canvas when it opens the file: bytes between the blocks are
    skipped, and every extension but a comment has a block more than its first, also after an empty one.
    """
    head = file.read(13)
    if len(head) < 13:
        return
    width, height, flags = struct.unpack_from("<HHB", head, 6)
    file.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, os.SEEK_CUR)
    for num_blocks, kind in enumerate(_gif_blocks(file), start=1):
        limits.check("max_chunks", num_blocks, "blocks before the pixels of a GIF")
        frame = file.read(8) if kind == b"," else b""
        if len(frame) == 8:
            left, top, frame_width, frame_height = struct.unpack("<HHHH", frame)
            limits.check_size(max(height, top + frame_height), max(width, left + frame_width), "GIF")
            return


def _gif_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the first byte of each block of a GIF up to its end, each block of an extension, and bytes between them."""
    while (kind := file.read(1)) not in (b"", b";"):
        yield kind
        if kind == b"!":
            label = file.read(1)
            block = _gif_sub_block(file)
            if label == b"\xff" and block.startswith(b"NETSCAPE2.0"):
                block = _gif_sub_block(file)
            is_last = label == b"\xfe" and not block
            while not is_last:
                yield b""
                is_last = not _gif_sub_block(file)


def _gif_sub_block(file: BinaryIO) -> bytes:
    return file.read(int.from_bytes(file.read(1)))
