"""Convert Pillow images of every mode to uint8 pixels: 8 bits, composited on white, upright.

Images are converted in bands of rows, so that the memory for it does not grow with the image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode_limits import ImageError, ImageErrorKind

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
    bits = _png_bits(image)  # before loading, which forgets it
    image.load()
    transparency = image.info.get("transparency")
    if bits != 8 and image.mode in ("L", "RGB") and transparency is not None:
        # As its pixels are now, also when the image is converted again.
        color = _transparent_color(image.mode, transparency, bits).tolist()
        image.info["transparency"] = tuple(color) if isinstance(color, list) else color
    orientation = exif_orientation(image)
    return array_to_tensor(pil_to_array(image, channels), orientation)


def _png_bits(image: Image.Image) -> int:
    """Return the bits per channel of a PNG's file, which its transparent color has, too; 8 where they are not known."""
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
