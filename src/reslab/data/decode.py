"""Decode an image file to a uint8 tensor of 1 or 3 channels, as an image viewer shows it.

Training, prediction, the server and the data check all read images here. What naive reading gets wrong, and what is
done here:

* A file is opened only as one of the listed formats (`image_formats`) and checked against `DecodeLimits` before any
  pixel is decoded. Conversions work on bands of rows, so that they take little memory beside the pixels.
* EXIF rotation is applied; phones store portraits rotated.
* 16-bit grayscale is scaled, round(v / 257), not clipped to white, also where the file says that zero is white. (Of
  16-bit color Pillow returns the high byte.)
* Palettes are looked up, CMYK (also Adobe's inverted CMYK) becomes RGB, of an animation the first frame is taken.
* Alpha is composited on white: out = round((alpha v + (255 - alpha) 255) / 255). Images with a transparent background
  (logos, drawings, cut-out products) are made for white pages; dropping alpha would show whatever color the editor
  left under the transparent pixels, mostly black or noise.
* Color to grayscale is ITU-R 601, 0.299 R + 0.587 G + 0.114 B, as in Pillow and torchvision; grayscale to color
  repeats the channel.
* An image whose data are damaged or cut is an error, never black from there on. What libjpeg can decode only with a
  warning is decoded, and the warning returned with it.

torchvision decodes ordinary JPEG files, Pillow everything else (CMYK, grayscale, rotated, damaged), and everything if
torchvision has no decoder.
"""

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reslab.data.decode_limits import (
    DecodeLimits,
    FileStructure,
    ImageError,
    ImageErrorKind,
    PngHeader,
    check_file,
    current_limits,
    has_all_png_data,
)
from reslab.data.image_formats import HEIC_EXTRA, has_heif_reader, is_heif, open_image, without_pillow_limit
from reslab.data.jpeg import decode_jpeg, decode_jpeg_with_warning, jpeg_warning, simple_jpeg_size
from reslab.data.pil_pixels import array_to_tensor, exif_orientation, pil_to_array, stored_channels
from reslab.spec.errors import invalid

ImageSource = str | os.PathLike[str] | bytes
ChooseScale = Callable[[int, int], int]
"""From the height and width of a JPEG file to by how much it is reduced when it is decoded: 1, 2, 4 or 8."""
_NO_PIXELS = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image's `pixels`, uint8 (channels, H, W), upright, and facts about its file.

    `stored_channels` are 1 (grayscale), 2 (with alpha), 3 or 4 (with alpha, or CMYK); `is_rotated` is True if EXIF
    rotated it; `warning` is what the JPEG decoder warned of, if asked for, else "".
    """

    pixels: Tensor
    stored_channels: int = 3
    is_rotated: bool = False
    warning: str = ""


def read_image(
    source: ImageSource,
    channels: int = 3,
    name: str = "",
    limits: DecodeLimits | None = None,
    choose_scale: ChooseScale | None = None,
) -> Tensor:
    """Decode a file, or its content (then called `name` in errors), to uint8 (channels, H, W).

    `limits` are by default those of `use_limits`. `choose_scale` may have an ordinary JPEG file in color reduced to a
    half, a quarter or an eighth of its size (rounded up) in the frequency domain, which takes less time and gives about
    the pixels of a reduction by averaging.

    Raises ImageError, a ValueError, naming the file if it is missing, empty, damaged, not an image or over a limit;
    ValueError if `channels` is not 1 or 3.
    """
    return decode_image(source, channels, name, limits, choose_scale=choose_scale).pixels


def decode_image(
    source: ImageSource,
    channels: int = 3,
    name: str = "",
    limits: DecodeLimits | None = None,
    *,
    collect_warning: bool = False,
    choose_scale: ChooseScale | None = None,
) -> DecodedImage:
    """Decode a file, or its content, as `read_image` does, and return its pixels with the facts about it.

    `collect_warning` also returns the warning of the JPEG decoder. Raises like `read_image`.
    """
    if channels not in (1, 3):
        raise invalid("1 channel (grayscale) or 3 (RGB)", channels, nearest="3" if channels > 1 else "1")
    limits = limits or current_limits()
    name = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    try:
        with _open_source(source) as file:
            try:
                structure = check_file(file, limits)
                if choose_scale is not None and channels == 3:
                    reduced = _decode_reduced(file, structure, choose_scale, limits)
                    if reduced is not None:
                        return reduced
                return _decode_file(file, structure, channels, limits, collect_warning)
            except ImageError:
                raise
            except Exception as error:  # Pillow raises nearly anything on damaged files, struct.error, SyntaxError too
                raise decoding_error(file, error) from error
    except ImageError as error:
        raise error.with_name(name) from error.__cause__


def _open_source(source: ImageSource) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError("a folder, not an image", ImageErrorKind.FORMAT)
        if not stat.S_ISREG(mode):
            raise ImageError("not a regular file", ImageErrorKind.FORMAT)
        return open(source, "rb")
    except FileNotFoundError as error:
        raise ImageError("no such file", ImageErrorKind.MISSING) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"cannot be opened ({reason})", ImageErrorKind.MISSING) from error


def _decode_file(
    file: BinaryIO, structure: FileStructure, channels: int, limits: DecodeLimits, collect_warning: bool
) -> DecodedImage:
    jpeg = structure.jpeg
    if jpeg and channels == 3:
        pixels, warning = decode_jpeg_with_warning(jpeg) if collect_warning else (decode_jpeg(jpeg), "")
        if pixels is not None:
            return DecodedImage(pixels, warning=warning)
    image = _decode_with_pillow(file, structure, channels, limits)
    return replace(image, warning=jpeg_warning(jpeg)) if collect_warning and jpeg else image


def _decode_reduced(
    file: BinaryIO, structure: FileStructure, choose_scale: ChooseScale, limits: DecodeLimits
) -> DecodedImage | None:
    """Decode an ordinary JPEG at the chosen scale, by Pillow; None for any other file and for scale 1."""
    size = simple_jpeg_size(structure.jpeg) if structure.jpeg else None
    scale = 1 if size is None else choose_scale(*size)
    if size is None or scale == 1:
        return None
    height, width = size
    with without_pillow_limit(), open_image(file, limits.formats) as image:
        limits.check_size(image.height, image.width, image.format or "")
        image.draft("RGB", (width // scale, height // scale))
        image.load()
        return DecodedImage(array_to_tensor(pil_to_array(image, 3), 1))


def _decode_with_pillow(file: BinaryIO, structure: FileStructure, channels: int, limits: DecodeLimits) -> DecodedImage:
    array, orientation, facts = _read_array(file, structure.png, channels, limits)
    # Pillow's image is gone by now: turning an image takes no more memory than decoding it.
    return replace(facts, pixels=array_to_tensor(array, orientation))


def _read_array(
    file: BinaryIO, png: PngHeader | None, channels: int, limits: DecodeLimits
) -> tuple[np.ndarray, int, DecodedImage]:
    """Return pixels as stored, the orientation that is still to be applied, and the facts without pixels."""
    with without_pillow_limit(), open_image(file, limits.formats) as image:
        limits.check_size(image.height, image.width, image.format or "")
        # Loading a TIFF turns it and removes the tag. Reading EXIF before loading would load a PNG.
        is_rotated = image.format == "TIFF" and exif_orientation(image) != 1
        image.load()
        if png is not None and _may_lack_rows(image, png) and not has_all_png_data(file, png):
            raise ImageError("truncated (it has fewer pixels than its header declares)", ImageErrorKind.DAMAGED)
        orientation = exif_orientation(image)
        facts = DecodedImage(_NO_PIXELS, stored_channels(image), is_rotated or orientation != 1)
        return pil_to_array(image, channels, 8 if png is None else png.bit_depth), orientation, facts


def _may_lack_rows(image: Image.Image, png: PngHeader) -> bool:
    """Return True if the last row is black, as Pillow leaves it if a PNG's data end too early."""
    return png.is_interlaced or not any(image.crop((0, image.height - 1, image.width, image.height)).tobytes())


def decoding_error(file: BinaryIO, error: Exception) -> ImageError:
    """Return the error for what Pillow raised on a file that is open."""
    file.seek(0)
    if isinstance(error, UnidentifiedImageError):
        if is_heif(file.read(16)) and not has_heif_reader():
            next_step = f"pip install 'reslab[{HEIC_EXTRA}]', or save it as JPEG"
            message = str(
                invalid(f"the extra {HEIC_EXTRA} to read HEIC", "an installation without pillow-heif", "", next_step)
            )
            return ImageError(message, ImageErrorKind.EXTRA)
        if not str(error):
            return ImageError("not an image of a known format", ImageErrorKind.FORMAT)
    if "truncated" in str(error).lower():
        return ImageError(f"truncated ({file.seek(0, os.SEEK_END)} bytes)", ImageErrorKind.DAMAGED)
    return ImageError(f"cannot be decoded ({str(error) or type(error).__name__})", ImageErrorKind.DAMAGED)
