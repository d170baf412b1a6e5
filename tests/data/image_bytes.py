"""Image files made byte by byte, for what no writer writes: odd depths, damage and declarations without pixels."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(
    size: tuple[int, int], bits: int, color_type: int, rows: bytes, before: bytes = b"", interlace: int = 0
) -> bytes:
    """Return a PNG of (height, width) with these bytes of pixels (a zero for the filter before each row)."""
    height, width = size
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlace))
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + before + pixels + png_chunk(b"IEND", b"")


def png_of_values(values: np.ndarray, bits: int, color_type: int, before: bytes = b"") -> bytes:
    """Return a PNG of pixel values (H, W) or (H, W, C) with this many bits per channel."""
    height, width = values.shape[:2]
    if bits == 16:
        packed = values.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        flat = values.astype(np.uint8).reshape(height, -1)
        packed = np.packbits(np.unpackbits(flat[..., None], axis=2)[..., 8 - bits :].reshape(height, -1), axis=1)
    return make_png((height, width), bits, color_type, b"".join(b"\0" + row.tobytes() for row in packed), before)


def make_tiff(values: np.ndarray, *, photometric: int = 1, sample_format: int = 1, orientation: int = 1) -> bytes:
    """Return an uncompressed grayscale TIFF of pixel values (H, W), in the bits of their type (big-endian: MM)."""
    order, mark = (">", b"MM") if values.dtype.byteorder == ">" else ("<", b"II")
    content, (height, width) = values.tobytes(), values.shape
    fields = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, values.dtype.itemsize * 8),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (274, 3, orientation),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(content)),
        (339, 3, sample_format),
    ]
    directory = struct.pack(f"{order}H", len(fields))
    for tag, kind, value in fields:
        directory += struct.pack(f"{order}HHI", tag, kind, 1)
        directory += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    return mark + struct.pack(f"{order}HI", 42, 8 + len(content)) + content + directory + bytes(4)
