"""Mask files: the values that they store, and the class of each pixel that the values stand for.

A mask stores numbers (modes L, P, 1, I;16, I), the numbers of a palette, or colors (RGB). A palette is not looked up,
so that decoding costs no conversion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from reslab.data.decode import decoding_error, exif_orientation, png_bits, turn_upright
from reslab.data.decode_limits import (
    DecodeLimits,
    ImageError,
    ImageErrorKind,
    check_file,
    current_limits,
    has_all_png_data,
)
from reslab.data.image_formats import open_image, without_pillow_limit
from reslab.data.mask_colors import VOID_COLOR, Color, format_color, pack_colors, unpack_colors
from reslab.spec.errors import invalid

VOID = 255
"""The number of pixels that do not count: neither in the loss nor in the metrics."""
MAX_CLASSES = 254
_UNKNOWN = 254  # of values that stand for no class, while a mask is decoded
_TIFF_BITS = 258
_LOSSY_FORMATS = ("JPEG", "MPO")
_NUMBER_MODES = ("L", "P", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")


class MaskValues(StrEnum):
    """The meaning of the numbers in a mask."""

    CLASSES = "classes"
    """The number of the class of each pixel."""
    INSTANCES = "instances"
    """The number of the object, from 1, that each pixel belongs to; 0 is background. All objects are of one class."""


class StoredMask(NamedTuple):
    """The content of a mask file: numbers (H, W), or colors (H, W, 3) uint8; the palette (n, 3) of the numbers."""

    values: np.ndarray
    palette: np.ndarray | None = None

    @property
    def height(self) -> int:
        """The height in pixels."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """The width in pixels."""
        return int(self.values.shape[1])


def read_stored_mask(path: Path, limits: DecodeLimits | None = None, *, check_complete: bool = False) -> StoredMask:
    """Return the values in a mask file. Gray colors (R = G = B) are numbers.

    `check_complete` decompresses a PNG a second time to find missing rows, which Pillow leaves black.

    Raises ImageError, a ValueError, naming the file if it cannot be read, is lossy, or is of another mode.
    """
    limits = limits or current_limits()
    try:
        with path.open("rb") as file:
            try:
                return _read_open_mask(file, limits, check_complete)
            except ImageError:
                raise
            except Exception as error:  # Pillow raises nearly anything on damaged files
                raise decoding_error(file, error) from error
    except ImageError as error:
        raise error.with_name(str(path)) from error.__cause__
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", ImageErrorKind.MISSING) from error


def _read_open_mask(file: BinaryIO, limits: DecodeLimits, check_complete: bool) -> StoredMask:
    png = check_file(file, limits).png
    with without_pillow_limit(), open_image(file, limits.formats) as image:
        limits.check_size(image.height, image.width, image.format or "")
        _check_mode(image)
        image.load()
        if check_complete and png is not None and not has_all_png_data(file, png):
            message = "truncated (it has fewer pixels than its header declares)"
            raise ImageError(message, ImageErrorKind.DAMAGED)
        return _to_stored(image, png.bit_depth if png else _tiff_bits(image))


def stored_mask(image: Image.Image) -> StoredMask:
    """Return the values of a mask that is a Pillow image. Raises ImageError for another mode."""
    _check_mode(image)
    bits = png_bits(image) if image.format == "PNG" else _tiff_bits(image)
    image.load()
    return _to_stored(image, bits)


def _tiff_bits(image: Image.Image) -> int:
    """Return the bits per channel of a TIFF's file; 8 for others."""
    return max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,)))


def read_mask_size(path: Path, limits: DecodeLimits | None = None) -> tuple[int, int]:
    """Return height and width of a mask file, of which only the header is read. Raises ImageError naming the file."""
    try:
        with path.open("rb") as file, without_pillow_limit():
            image = open_image(file, (limits or current_limits()).formats)
            # To look for the EXIF data behind the pixels of a PNG would decode it.
            has_exif = image.format == "TIFF" or "exif" in image.info
            is_turned = has_exif and exif_orientation(image) >= 5
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception as error:  # Pillow raises nearly anything on damaged files
        message = f"{path}: cannot be decoded ({str(error) or type(error).__name__})"
        raise ImageError(message, ImageErrorKind.DAMAGED) from error


def _check_mode(image: Image.Image) -> None:
    if image.format in _LOSSY_FORMATS:
        required = "a mask in a lossless format such as PNG"
        got = f"{image.format}, whose compression changes the numbers at every boundary"
        raise ImageError(str(invalid(required, got, next_step="export the masks as PNG")), ImageErrorKind.FORMAT)
    if image.mode not in (*_NUMBER_MODES, "RGB", "RGBA", "LA"):
        required = f"a mask of numbers ({', '.join(_NUMBER_MODES[:5])}) or colors (RGB)"
        next_step = "save the numbers of the classes as PNG in mode L"
        raise ImageError(str(invalid(required, f"mode {image.mode}", next_step=next_step)), ImageErrorKind.PIXELS)


def _to_stored(image: Image.Image, bit_depth: int) -> StoredMask:
    if bit_depth > 8 and image.mode in ("RGB", "RGBA", "LA"):
        required, got = "a mask of 8 bits per color, or of numbers alone", f"{bit_depth} bits per color"
        next_step = "save the numbers in one channel of 16 bits (mode I;16)"  # Pillow keeps the high byte of each color
        raise ImageError(str(invalid(required, got, next_step=next_step)), ImageErrorKind.PIXELS)
    array = turn_upright(np.array(image), exif_orientation(image))
    if image.mode in ("RGBA", "LA"):
        if not bool((array[..., -1] == 255).all()):
            required, next_step = "a mask without transparency", "export the masks with numbers or colors alone"
            raise ImageError(str(invalid(required, f"mode {image.mode}", next_step=next_step)), ImageErrorKind.PIXELS)
        array = array[..., 0] if image.mode == "LA" else array[..., :3]
    if array.ndim == 3:
        is_gray = bool((array[..., :1] == array[..., 1:]).all())
        return StoredMask(array[..., 0] if is_gray else array)
    if image.mode == "L" and bit_depth < 8:
        array = array // (255 // ((1 << bit_depth) - 1))  # Pillow stretches 2 and 4 bits to 8
    if image.mode == "P":
        return StoredMask(array, _palette_colors(image))
    return StoredMask(array.astype(np.uint8) if array.dtype == bool else array)


def _palette_colors(image: Image.Image) -> np.ndarray:
    return np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)


@dataclass(frozen=True)
class MaskEncoding:
    """The class of each value in the mask files of a dataset.

    Class k is stored as the number `numbers[k]` and, where `colors` are given, as the color `colors[k]`, in RGB masks
    and palettes alike; `void_numbers` and `void_colors` are void. Where several values stand for one class,
    `merged_numbers` and `merged_colors` are the further ones with their classes. With `is_instances`, numbers count the
    objects of an image: 0 is class 0, all others are class 1.
    """

    numbers: tuple[int, ...]
    colors: tuple[Color, ...] = ()
    void_numbers: tuple[int, ...] = (VOID,)
    void_colors: tuple[Color, ...] = (VOID_COLOR,)
    is_instances: bool = False
    merged_numbers: tuple[tuple[int, int], ...] = ()
    merged_colors: tuple[tuple[Color, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the encoding as plain data for JSON."""
        return {
            "numbers": list(self.numbers),
            "colors": [list(color) for color in self.colors],
            "void_numbers": list(self.void_numbers),
            "void_colors": [list(color) for color in self.void_colors],
            "is_instances": self.is_instances,
            **({"merged_numbers": [list(pair) for pair in self.merged_numbers]} if self.merged_numbers else {}),
            **({"merged_colors": [[list(color), k] for color, k in self.merged_colors]} if self.merged_colors else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MaskEncoding":
        """Return the encoding that `to_dict` wrote."""
        colors, void_colors = (tuple(map(_to_color, values[key])) for key in ("colors", "void_colors"))
        numbers, void_numbers = (tuple(map(int, values[key])) for key in ("numbers", "void_numbers"))
        merged_numbers = tuple((int(number), int(k)) for number, k in values.get("merged_numbers", ()))
        merged_colors = tuple((_to_color(color), int(k)) for color, k in values.get("merged_colors", ()))
        is_instances = bool(values["is_instances"])
        return cls(numbers, colors, void_numbers, void_colors, is_instances, merged_numbers, merged_colors)

    @property
    def num_classes(self) -> int:
        """The number of classes; 2 for masks of instances."""
        return 2 if self.is_instances else max(len(self.numbers), len(self.colors))

    def decode(self, stored: StoredMask) -> np.ndarray:
        """Return the class of each pixel, (H, W) uint8, 255 where it is void.

        Raises ValueError with the values that stand for no class.
        """
        mask = self._classes(stored)
        is_known = self._is_known(mask)
        if not is_known.all():
            raise self._unknown_error(stored, ~is_known)
        return mask

    def knows(self, stored: StoredMask) -> np.ndarray:
        """Return for each pixel whether its value stands for a class or void, (H, W) bool."""
        return self._is_known(self._classes(stored))

    def _is_known(self, mask: np.ndarray) -> np.ndarray:
        known: np.ndarray = (mask < self.num_classes) | (mask == VOID)
        return known

    def _classes(self, stored: StoredMask) -> np.ndarray:
        values, palette = stored
        if values.ndim == 3:
            return self._decode_colors(values)
        if self.is_instances:
            return (values > 0).astype(np.uint8)
        if palette is not None and self.colors:
            return self._decode_colors(palette)[np.minimum(values, len(palette) - 1)]
        return values if self._is_identity and values.dtype == np.uint8 else self._decode_numbers(values)

    @cached_property
    def _is_identity(self) -> bool:
        is_range = bool(self.numbers) and self.numbers == tuple(range(len(self.numbers)))
        return is_range and not self.merged_numbers and self.void_numbers == (VOID,)

    def _decode_numbers(self, values: np.ndarray) -> np.ndarray:
        if values.dtype == np.uint8:
            return self._number_table[values]
        size = len(self._number_table)
        is_inside = (values >= 0) & (values < size)
        return np.where(is_inside, self._number_table[np.where(is_inside, values, 0)], _UNKNOWN).astype(np.uint8)

    @cached_property
    def _number_table(self) -> np.ndarray:
        class_of = {
            **dict.fromkeys(self.void_numbers, VOID),
            **{number: k for k, number in enumerate(self.numbers)},
            **dict(self.merged_numbers),
        }
        table = np.full(max(VOID, *class_of) + 1, _UNKNOWN, dtype=np.uint8)
        table[list(class_of)] = list(class_of.values())
        return table

    def _decode_colors(self, colors: np.ndarray) -> np.ndarray:
        keys, classes = self._color_table
        packed = pack_colors(colors)
        positions = np.searchsorted(keys, packed).clip(0, max(len(keys) - 1, 0))
        return np.where(keys[positions] == packed, classes[positions], _UNKNOWN).astype(np.uint8)

    @cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        class_of = {
            **dict.fromkeys(self.void_colors, VOID),
            **{color: k for k, color in enumerate(self.colors)},
            **dict(self.merged_colors),
        }
        keys = pack_colors(np.array(list(class_of), dtype=np.uint8))
        order = keys.argsort()
        return keys[order], np.array(list(class_of.values()), dtype=np.uint8)[order]

    def _unknown_error(self, stored: StoredMask, is_unknown: np.ndarray) -> ValueError:
        values = stored.values[is_unknown]
        if values.ndim == 2:
            values_text = sorted({format_color(color) for color in unpack_colors(np.unique(pack_colors(values)))})
            required = "colors of classes" if self.colors else "masks of numbers, as no list gives colors"
            next_step = "list the colors in labelmap.txt, one class a line: NAME:RED,GREEN,BLUE"
        else:
            values_text = [str(number) for number in np.unique(values).tolist()]
            void = f", or {' or '.join(map(str, self.void_numbers))} for void" if self.void_numbers else ""
            numbers = (*self.numbers, *(number for number, _ in self.merged_numbers))
            required = f"numbers of the {self.num_classes} classes ({_ranges(tuple(sorted(numbers)))}){void}"
            next_step = "correct the mask, the list of classes, or --mask-values"
        shown = ", ".join(values_text[:5]) + (f" and {len(values_text) - 5} more" if len(values_text) > 5 else "")
        return invalid(required, shown, next_step=next_step)


def _to_color(values: Any) -> Color:
    red, green, blue = map(int, values)
    return red, green, blue


def _ranges(numbers: tuple[int, ...]) -> str:
    """Return `0 to 20`, or up to eight numbers; `none` without any."""
    if not numbers:
        return "none"
    if len(numbers) > 1 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
