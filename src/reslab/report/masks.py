"""Draw masks over images: a color for each class, gray stripes where the mask is void."""

import colorsys

import numpy as np
from PIL import Image

from reslab.data.masks import VOID, Color

_OPACITY = 0.55
_GOLDEN_RATIO = 0.618034  # of the hue circle, so that classes whose numbers are close have distant hues
_SATURATIONS = (0.95, 0.6)
_STRIPE_PERIOD = 8  # pixels, from one stripe of void to the next
_STRIPE_COLORS = ((110, 110, 110), (190, 190, 190))


def class_color(number: int) -> Color | None:
    """Return the color of a class; None for class 0, which is left as the image is."""
    if not number:
        return None
    hue, saturation = (number - 1) * _GOLDEN_RATIO % 1, _SATURATIONS[(number - 1) // 5 % 2]
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(hue, saturation, 1))
    return red, green, blue


def draw_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image with its mask over it, uint8 (H, W, 3).

    `image` is uint8 (H, W) or (H, W, 3), `mask` uint8 of any size, resized to that of the image. Class 0 is left as
    the image is, void is striped.
    """
    height, width = image.shape[:2]
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if mask.shape != (height, width):
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    painted = image.astype(np.float32)
    for number in np.unique(mask).tolist():
        color = class_color(number)
        if number != VOID and color is not None:
            where = mask == number
            painted[where] = (1 - _OPACITY) * painted[where] + _OPACITY * np.array(color, dtype=np.float32)
    rows, columns = np.indices((height, width))
    is_light = (rows + columns) % _STRIPE_PERIOD < _STRIPE_PERIOD // 2
    stripes = np.where(is_light[..., None], *(np.array(color, dtype=np.float32) for color in _STRIPE_COLORS[::-1]))
    return np.where((mask == VOID)[..., None], stripes, painted).round().astype(np.uint8)
