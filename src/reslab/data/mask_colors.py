"""Colors of masks: as text, as numbers, and the palette of PASCAL VOC."""

import numpy as np

Color = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""
VOID_COLOR = (224, 224, 192)
"""The color of void in the palette of PASCAL VOC, and in masks that are exported with its colors."""


def pack_colors(colors: np.ndarray) -> np.ndarray:
    """Return colors (..., 3) uint8 as numbers (...,) int32: red * 65536 + green * 256 + blue."""
    wide = colors.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpack_colors(packed: np.ndarray) -> list[Color]:
    """Return the colors of numbers of `pack_colors`."""
    return [(number >> 16, number >> 8 & 255, number & 255) for number in packed.tolist()]


def voc_color(number: int) -> Color:
    """Return the color of a number in PASCAL VOC's palette: bits 0, 1, 2 of the number are the high bits of R, G, B."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (number & 1) << shift
        green |= (number >> 1 & 1) << shift
        blue |= (number >> 2 & 1) << shift
        number >>= 3
    return red, green, blue


def format_color(color: Color) -> str:
    """Return `#ff8000`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def parse_color(text: str) -> Color:
    """Return the color of `#ff8000`."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
