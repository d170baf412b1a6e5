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
from typing import Any, BinaryIO

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


_BAND_PIXELS = 1 << 18
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_STORED_CHANNELS = {
    **dict.fromkeys(("1", "L", "I", "F", *_DEEP_MODES), 1),
    **dict.fromkeys(("LA", "La"), 2),
    **dict.fromkeys(("PA", "RGBA", "RGBa", "CMYK"), 4),
}


def pil_to_tensor(image: Image.Image, channels: int) -> Tensor:
    """Convert a Pillow image to uint8 (channels, H, W), upright and composited on white.

    Raises ImageError for pixels whose white is undefined, and whatever Pillow raises for damaged pixels.
    """
    bits = png_bits(image)  # before loading, which forgets it
    image.load()
    transparency = image.info.get("transparency")
    if bits != 8 and image.mode in ("L", "RGB") and transparency is not None:
        # As its pixels are now, also when the image is converted again.
        color = _transparent_color(image.mode, transparency, bits).tolist()
        image.info["transparency"] = tuple(color) if isinstance(color, list) else color
    orientation = exif_orientation(image)
    return array_to_tensor(pil_to_array(image, channels), orientation)


def png_bits(image: Image.Image) -> int:
    """Return the bits per channel of a PNG's file, which its transparent color has, too; 8 where they are not known.

    Of an image that is not loaded yet: loading forgets them.
    """
    tiles: Any = getattr(image, "tile", None)
    if image.format == "PNG" and tiles and isinstance(tiles[0][3], str):  # "L;4", "RGB;16B", "RGB"
        bits = tiles[0][3].partition(";")[2].rstrip("B")
        return int(bits) if bits.isdecimal() else 8
    transparency = image.info.get("transparency")
    return 16 if isinstance(transparency, tuple) and max(transparency) > 255 else 8


def exif_orientation(image: Image.Image) -> int:
    """Return EXIF's orientation from 1 (upright) to 8, of an image that has been loaded.

    Before that, reading it may load the image (PNG), and the orientation may be one that loading applies (TIFF).
    """
    try:
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF data do not affect the pixels
        return 1
    return orientation if orientation in _TRANSPOSES else 1


def stored_channels(image: Image.Image) -> int:
    """Return the channels of an image's file: 1, 2 (grayscale with alpha), 3 or 4 (with alpha, or CMYK)."""
    return 4 if "transparency" in image.info else _STORED_CHANNELS.get(image.mode, 3)


_TRANSPOSES: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda array: array,
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: np.rot90(array, 1),
}


def array_to_tensor(array: np.ndarray, orientation: int) -> Tensor:
    """Return pixels (H, W) or (H, W, 3) as a tensor (C, H, W), turned upright from an EXIF orientation.

    A pixel's channels stay adjacent in memory, as in Pillow: torch resizes this twice as fast.
    """
    turned = turn_upright(array, orientation)
    return torch.from_numpy(turned[None] if turned.ndim == 2 else turned.transpose(2, 0, 1))


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W) or (H, W, C) turned upright from an EXIF orientation, contiguous."""
    return np.ascontiguousarray(_TRANSPOSES[orientation](array))


def pil_to_array(image: Image.Image, channels: int, bits: int = 8) -> np.ndarray:
    """Convert a loaded Pillow image as it is stored to uint8 (H, W) or (H, W, 3); a PNG's file has `bits` per channel.

    Raises ImageError for pixels whose white is undefined.
    """
    to_8bit = _converter(image, bits)
    height, width = image.height, image.width
    pixels = np.empty((height, width) if channels == 1 else (height, width, 3), dtype=np.uint8)
    num_rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, num_rows):
        is_whole = num_rows >= height
        band = image if is_whole else image.crop((0, top, width, min(height, top + num_rows)))
        pixels[top : top + num_rows] = _with_channels(to_8bit(band), channels)
    return pixels


def _with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    if channels == 3:
        return array if array.ndim == 3 else array[..., None]
    return array if array.ndim == 2 else np.asarray(Image.fromarray(array).convert("L"))


def _converter(image: Image.Image, bits: int) -> Callable[[Image.Image], np.ndarray]:
    """Return the function that converts a band of the image to uint8 (h, w) or (h, w, 3)."""
    mode, transparency = image.mode, image.info.get("transparency")
    if mode in _DEEP_MODES or (mode == "I" and image.format in ("PNG", "PPM")):
        return _deep_converter(image, transparency)
    if mode in ("I", "F"):
        raise _undefined_white(image)
    if mode in _ALPHA_MODES or (mode == "P" and transparency is not None):
        return _composite_on_white
    target = mode if mode in ("L", "RGB") else "L" if mode == "1" else "RGB"
    if transparency is None:
        return lambda band: np.asarray(band if band.mode == target else band.convert(target))
    color = _transparent_color(mode, transparency, bits)

    def convert(band: Image.Image) -> np.ndarray:
        array = np.array(band if band.mode == target else band.convert(target))
        array[(array == color).all(-1) if array.ndim == 3 else array == color] = 255
        return array

    return convert


def _transparent_color(mode: str, transparency: Any, bits: int) -> np.ndarray:
    """Return the transparent color of a grayscale or RGB image in 8 bits; a PNG gives it in its own number of bits."""
    color = np.asarray(transparency, dtype=np.int64)
    if mode == "1":
        return np.where(color != 0, 255, 0)
    if bits == 16:
        return color >> 8
    max_value = (1 << bits) - 1
    return (color & max_value) * (255 // max_value)


def _deep_converter(image: Image.Image, transparency: int | None) -> Callable[[Image.Image], np.ndarray]:
    """Return the function that scales 12 or 16 bits to 8; what is transparent becomes white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    is_inverted = tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
    max_value = 4095 if tuple(tags.get(_TIFF_BITS, ())) == (12,) else 65535

    def convert(band: Image.Image) -> np.ndarray:
        deep = np.asarray(band).astype(np.uint32)
        scaled = ((deep * 255 + max_value // 2) // max_value).astype(np.uint8)
        if is_inverted:
            scaled = 255 - scaled
        if transparency is not None:
            scaled[deep == transparency] = 255
        return scaled

    return convert


def _composite_on_white(band: Image.Image) -> np.ndarray:
    if band.mode in ("La", "RGBa"):  # colors that are multiplied by alpha
        band = band.convert({"La": "LA", "RGBa": "RGBA"}[band.mode])
    pixels = np.asarray(band if band.mode == "RGBA" else band.convert("RGBA")).astype(np.uint16)
    color, alpha = pixels[..., :3], pixels[..., 3:]
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _undefined_white(image: Image.Image) -> ImageError:
    tags = getattr(image, "tag_v2", {})
    if _SIGNED in tuple(tags.get(_TIFF_SAMPLE_FORMAT, ())):
        kind = f"signed {tags.get(_TIFF_BITS, (32,))[0]}-bit pixels, whose black and white are undefined"
    else:
        kind = f"32-bit {'floating-point ' * (image.mode == 'F')}pixels, whose white is undefined"
    return ImageError(f"{kind}; save it with 8 or 16 unsigned bits per channel", ImageErrorKind.PIXELS)
