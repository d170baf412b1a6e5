"""Ordinary JPEG pictures by torchvision's decoder: the same pixels as Pillow's, in three quarters of the time.

Both call libjpeg-turbo; torchvision's decodes into the tensor, Pillow's pixels are copied out of it. What comes here is
told by a file's markers: 8 bits, three channels, upright. CMYK, grey, turned, damaged: all else is left to Pillow, and
everything is where torchvision has no decoder.
"""

import struct
from functools import cache

import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from PIL import Image
from torch import Tensor

_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_SCAN, _APP1 = 0xDA, 0xE1
_ORIENTATION, _SHORT = 0x0112, 3


def decode_jpeg(content: bytes) -> Tensor | None:
    """uint8 (3, H, W) of an ordinary JPEG, its channels side by side in memory; None where the bytes are anything else.

    What is cut short or damaged is None too: Pillow says what is wrong with it.
    """
    if not content.startswith(b"\xff\xd8\xff") or not _there() or not is_ordinary(content):
        return None
    try:
        # Not torchvision.io.decode_jpeg, which warns that it will be removed; then nothing will be there.
        pixels: Tensor = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), 3, False)
    except RuntimeError:
        return None
    return pixels


@cache
def _there() -> bool:
    return hasattr(torch.ops.image, "decode_jpeg")


def is_ordinary(content: bytes) -> bool:
    """Whether the markers before a JPEG's picture tell of 8 bits, three channels, upright, a size that is no trap."""
    place, framed = 2, False
    while place + 4 <= len(content):
        sign, marker, length = struct.unpack_from(">BBH", content, place)
        body = place + 4
        if sign != 0xFF or length < 2:
            return False
        if marker == _SCAN:
            return framed
        if marker in _FRAMES:
            if length < 8 or body + 6 > len(content):
                return False
            bits, height, width, channels = struct.unpack_from(">BHHB", content, body)
            framed = bits == 8 and channels == 3 and 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0)
        elif marker == _APP1 and not _upright(content[body : place + 2 + length]):
            return False
        place += 2 + length
    return False


def _upright(app1: bytes) -> bool:
    """Whether EXIF data say nothing of a turn; not where they cannot be read. XMP data may say it too."""
    if not app1.startswith(b"Exif\0\0"):
        return b"Orientation" not in app1
    order = {b"II": "<", b"MM": ">"}.get(app1[6:8])
    if order is None:
        return False
    try:
        (start,) = struct.unpack_from(f"{order}I", app1, 10)
        (num,) = struct.unpack_from(f"{order}H", app1, 6 + start)
        for entry in range(8 + start, 8 + start + 12 * num, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", app1, entry)
            if tag == _ORIENTATION:
                return bool(kind == _SHORT and value == 1)
    except struct.error:
        return False
    return True
