"""Reading a picture right: a file's bytes to a uint8 tensor of 1 or 3 channels, as a viewer would show it.

What naive reading gets wrong, and what is done here:

* EXIF rotation is applied; phones store portraits lying down.
* 16-bit grey is scaled, round(v / 257), not clipped to white. (Of 16-bit colour Pillow hands out the high byte.)
* A palette is looked up; CMYK (and Adobe's inverted CMYK) becomes RGB; of an animation the first frame is taken.
* Alpha is composited on white: out = round((alpha v + (255 - alpha) 255) / 255). Pictures with a transparent ground
  (logos, drawings, cut-out products) are made for pages, which are white; dropping alpha instead would show whatever
  colour the editor left under the transparent pixels, mostly black, or noise nobody ever saw.
* Colour to grey is ITU-R 601, 0.299 R + 0.587 G + 0.114 B, as in Pillow and torchvision; grey to colour repeats it.

Ordinary JPEG pictures by torchvision's decoder: the same pixels as Pillow's, in three quarters of the time.

Both call libjpeg-turbo; torchvision's decodes into the tensor, Pillow's pixels are copied out of it. What comes here is
told by a file's markers: 8 bits, three channels, upright. CMYK, grey, turned, damaged: all else is left to Pillow, and
everything is where torchvision has no decoder.
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
    """uint8 (3, H, W) of an ordinary JPEG, its channels side by side in memory; None where the bytes are anything else.

    What is cut short or damaged is None too: Pillow says what is wrong with it.
    """
    if not content.startswith(b"\xff\xd8\xff") or not _has_torchvision_decoder() or not is_simple_jpeg(content):
        return None
    try:
        # Not torchvision.io.decode_jpeg, which warns that it will be removed; then nothing will be there.
        pixels: Tensor = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), 3, False)
    except RuntimeError:
        return None
    return pixels


@cache
def _has_torchvision_decoder() -> bool:
    return hasattr(torch.ops.image, "decode_jpeg")


def is_simple_jpeg(content: bytes) -> bool:
    """Whether the markers before a JPEG's picture tell of 8 bits, three channels, upright, a size that is no trap."""
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
    """Whether EXIF data say nothing of a turn; not where they cannot be read. XMP data may say it too."""
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
    """The picture in a file (or in its bytes, then called `name`) as uint8 (channels, H, W).

    `ending` (webp, png) is the format to try first, which halves the time for tiny pictures; the content decides.
    Raises ValueError naming the file where it is missing, empty, cut short or no picture, or `channels` is not 1 or 3.
    """
    if channels not in _PIL_MODES:
        raise invalid("1 channel (grey) or 3 (red, green, blue)", channels, nearest="3" if channels > 1 else "1")
    name = name or ("picture" if isinstance(source, bytes) else os.fspath(source))
    try:
        jpeg_bytes = _read_jpeg_bytes(source)
        pixels = decode_jpeg(jpeg_bytes) if jpeg_bytes and channels == 3 else None
        if pixels is not None:
            return pixels
        with _open_image(jpeg_bytes or source, extension) as image:
            return pil_to_tensor(image, channels)
    except (
        Exception
    ) as error:  # Pillow's decoders raise nearly anything on broken bytes, struct.error and SyntaxError too
        raise ValueError(f"{name}: {_error_reason(source, error)}") from error


def check_image(source: str | os.PathLike[str] | bytes, name: str = "") -> tuple[int, int]:
    """Decode a file to the end and return (H, W) as stored; JPEG at an eighth of its size, which is much faster.

    Raises ValueError as `read_picture` would.
    """
    name = name or ("picture" if isinstance(source, bytes) else os.fspath(source))
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
    """An opened Pillow picture as uint8 (channels, H, W), by the rules on top of this file.

    In memory its channels lie side by side, as Pillow has them: no copy is made, and torch resizes that twice as fast.
    """
    transpose = _EXIF_TRANSPOSES.get(exif_orientation(image))
    converted = _to_8bit(image, image.format).convert(_PIL_MODES[channels])
    if transpose is not None:
        converted = converted.transpose(transpose)
    pixels = np.array(converted)
    return torch.from_numpy(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _read_jpeg_bytes(source: str | os.PathLike[str] | bytes) -> bytes:
    """All bytes of what may be a JPEG; of other files none, so that they are read as their decoder wants them."""
    if isinstance(source, bytes):
        return source
    return Path(source).read_bytes() if os.fspath(source).lower().endswith((".jpg", ".jpeg")) else b""


def _open_image(source: str | os.PathLike[str] | bytes, extension: str) -> Image.Image:
    if extension.lower() in _PIL_FORMATS:
        try:
            return Image.open(_as_file(source), formats=_PIL_FORMATS[extension.lower()])
        except UnidentifiedImageError:  # the ending lies
            pass
    return Image.open(_as_file(source))


def _as_file(source: str | os.PathLike[str] | bytes) -> BinaryIO | Path:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source)


def exif_orientation(image: Image.Image) -> int:
    """EXIF's number from 1 (upright) to 8."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def _to_8bit(image: Image.Image, image_format: str | None) -> Image.Image:
    """The picture in mode L or RGB, on white where it has alpha."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image_format in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, which have no defined white; save it with 8 or 16 bits a channel")
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
        return "a folder, not a picture"
    num_bytes = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    if num_bytes == 0:
        return "empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    if "truncated" in str(error).lower():
        return f"cut short ({num_bytes} bytes)"
    return (
        f"cannot be read as a picture ({error})"
        if str(error)
        else f"cannot be read as a picture ({type(error).__name__})"
    )
