"""Decode an image file to a uint8 tensor of 1 or 3 channels, as an image viewer shows it.

What naive reading gets wrong, and what is done here:

* EXIF rotation is applied; phones store portraits rotated.
* 16-bit grayscale is scaled, round(v / 257), not clipped to white. (Of 16-bit color Pillow returns the high byte.)
* Palettes are looked up, CMYK (also Adobe's inverted CMYK) becomes RGB, of an animation the first frame is taken.
* Alpha is composited on white: out = round((alpha v + (255 - alpha) 255) / 255). Images with a transparent background
  (logos, drawings, cut-out products) are made for white pages; dropping alpha would show whatever color the editor
  left under the transparent pixels, mostly black or noise.
* Color to grayscale is ITU-R 601, 0.299 R + 0.587 G + 0.114 B, as in Pillow and torchvision; grayscale to color
  repeats the channel.

Ordinary JPEG files are decoded by torchvision, which gives the same pixels as Pillow in three quarters of the time:
both call libjpeg-turbo, but torchvision decodes into the tensor, while Pillow's pixels are copied. The markers of a
file tell whether it is ordinary: 8 bits, three channels, upright. Pillow decodes everything else (CMYK, grayscale,
rotated, damaged), and everything if torchvision has no decoder.
"""

import io
import os
import struct
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reslab.spec.errors import invalid

_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_SCAN_MARKER, _APP1_MARKER = 0xDA, 0xE1
_ORIENTATION_TAG, _SHORT_TYPE = 0x0112, 3


def decode_jpeg(content: bytes) -> Tensor | None:
    """Decode an ordinary JPEG to uint8 (3, H, W), a pixel's channels adjacent in memory; None for any other content.

    A truncated or damaged file is None too: Pillow reports what is wrong with it.
    """
    if not content.startswith(b"\xff\xd8\xff") or not _has_torchvision_decoder() or not is_simple_jpeg(content):
        return None
    try:
        # torchvision.io.decode_jpeg warns that it will be removed; when it is, `_has_torchvision_decoder` notices.
        pixels: Tensor = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), 3, False)
    except RuntimeError:
        return None
    return pixels


@cache
def _has_torchvision_decoder() -> bool:
    return hasattr(torch.ops.image, "decode_jpeg")


def is_simple_jpeg(content: bytes) -> bool:
    """Return True if a JPEG has 8 bits, three channels, no rotation, and no more pixels than Pillow's safety limit."""
    offset, has_simple_frame = 2, False
    while offset + 4 <= len(content):
        prefix, marker, length = struct.unpack_from(">BBH", content, offset)
        body = offset + 4
        if prefix != 0xFF or length < 2:
            return False
        if marker == _SCAN_MARKER:
            return has_simple_frame
        if marker in _FRAME_MARKERS:
            if length < 8 or body + 6 > len(content):
                return False
            bits, height, width, channels = struct.unpack_from(">BHHB", content, body)
            has_simple_frame = bits == 8 and channels == 3 and 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0)
        elif marker == _APP1_MARKER and not _is_upright(content[body : offset + 2 + length]):
            return False
        offset += 2 + length
    return False


def _is_upright(app1: bytes) -> bool:
    """Return True if an APP1 segment (EXIF or XMP) leaves the image unrotated; False if it cannot be read."""
    if not app1.startswith(b"Exif\0\0"):
        return b"Orientation" not in app1
    byte_order = {b"II": "<", b"MM": ">"}.get(app1[6:8])
    if byte_order is None:
        return False
    try:
        (ifd_offset,) = struct.unpack_from(f"{byte_order}I", app1, 10)
        (num_entries,) = struct.unpack_from(f"{byte_order}H", app1, 6 + ifd_offset)
        for entry_offset in range(8 + ifd_offset, 8 + ifd_offset + 12 * num_entries, 12):
            tag, field_type, _, value = struct.unpack_from(f"{byte_order}HHIH", app1, entry_offset)
            if tag == _ORIENTATION_TAG:
                return bool(field_type == _SHORT_TYPE and value == 1)
    except struct.error:
        return False
    return True


_EXIF_ORIENTATION = 0x0112
_EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PIL_MODES = {1: "L", 3: "RGB"}
_PIL_FORMATS = {"webp": ("WEBP",), "png": ("PNG",), "jpg": ("JPEG",), "jpeg": ("JPEG",)}


def read_image(
    source: str | os.PathLike[str] | bytes, channels: int = 3, name: str = "", extension: str = ""
) -> Tensor:
    """Decode a file, or its content (then called `name` in errors), to uint8 (channels, H, W).

    `extension` (webp, png) is the format to try first, which halves the time for tiny images; the content decides.
    Raises ValueError naming the file if it is missing, empty, truncated or not an image, or `channels` is not 1 or 3.
    """
    if channels not in _PIL_MODES:
        raise invalid("1 channel (grayscale) or 3 (RGB)", channels, nearest="3" if channels > 1 else "1")
    name = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    try:
        jpeg_bytes = _read_jpeg_bytes(source)
        pixels = decode_jpeg(jpeg_bytes) if jpeg_bytes and channels == 3 else None
        if pixels is not None:
            return pixels
        with _open_image(jpeg_bytes or source, extension) as image:
            return pil_to_tensor(image, channels)
    except Exception as error:  # Pillow raises nearly anything on damaged files, struct.error and SyntaxError too
        raise ValueError(f"{name}: {_error_reason(source, error)}") from error


def check_image(source: str | os.PathLike[str] | bytes, name: str = "") -> tuple[int, int]:
    """Decode a file to its end and return (H, W) as stored; JPEG at an eighth of its size, which is much faster.

    Raises ValueError as `read_image` would.
    """
    name = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    try:
        with Image.open(_as_file(source)) as image:
            width, height = image.size
            image.draft(None, (max(1, width // 8), max(1, height // 8)))
            image.load()
            _to_8bit(image.crop((0, 0, 1, 1)), image.format)
            return height, width
    except Exception as error:
        raise ValueError(f"{name}: {_error_reason(source, error)}") from error


def pil_to_tensor(image: Image.Image, channels: int) -> Tensor:
    """Convert a Pillow image to uint8 (channels, H, W), by the rules at the top of this file.

    A pixel's channels are adjacent in memory, as in Pillow: nothing is copied, and torch resizes this twice as fast.
    """
    transpose = _EXIF_TRANSPOSES.get(exif_orientation(image))
    converted = _to_8bit(image, image.format).convert(_PIL_MODES[channels])
    if transpose is not None:
        converted = converted.transpose(transpose)
    pixels = np.array(converted)
    return torch.from_numpy(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _read_jpeg_bytes(source: str | os.PathLike[str] | bytes) -> bytes:
    """Return the content of what may be a JPEG, empty for other files: Pillow reads those as far as it needs."""
    if isinstance(source, bytes):
        return source
    return Path(source).read_bytes() if os.fspath(source).lower().endswith((".jpg", ".jpeg")) else b""


def _open_image(source: str | os.PathLike[str] | bytes, extension: str) -> Image.Image:
    if extension.lower() in _PIL_FORMATS:
        try:
            return Image.open(_as_file(source), formats=_PIL_FORMATS[extension.lower()])
        except UnidentifiedImageError:  # the extension is wrong
            pass
    return Image.open(_as_file(source))


def _as_file(source: str | os.PathLike[str] | bytes) -> BinaryIO | Path:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source)


def exif_orientation(image: Image.Image) -> int:
    """Return EXIF's orientation from 1 (upright) to 8."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF data do not affect the pixels
        return 1


def _to_8bit(image: Image.Image, image_format: str | None) -> Image.Image:
    """Convert to mode L or RGB, composited on white if there is an alpha channel."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image_format in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, whose white is undefined; save it with 8 or 16 bits per channel")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _composite_on_white(image.convert("RGBA"))
    return image.convert("L" if image.mode == "1" else "RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.uint32)
    color, alpha = pixels[..., :3], pixels[..., 3:]
    return Image.fromarray(((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))


def _error_reason(source: str | os.PathLike[str] | bytes, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    num_bytes = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    if num_bytes == 0:
        return "empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if "truncated" in str(error).lower():
        return f"truncated ({num_bytes} bytes)"
    return f"cannot be decoded ({str(error) or type(error).__name__})"
