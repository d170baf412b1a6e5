"""Draw boxes over images, in a color for each class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from reslab.data.formats.mask_classes import voc_color

_WIDTH_SHARE = 0.006  # of the longer side of an image


def draw_boxes(image: np.ndarray, boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> np.ndarray:
    """Return the image with the outlines of boxes, uint8 (H, W, 3).

    `image` is uint8 (H, W) or (H, W, 3). `boxes` are (x1, y1, x2, y2) in its pixels, the right and lower ends
    excluded; the colors of `labels` are those of PASCAL VOC's palette, each between two white lines. A narrow box
    is filled.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    canvas = Image.fromarray(image)
    drawing = ImageDraw.Draw(canvas)
    width = max(1, round(_WIDTH_SHARE * max(image.shape[:2])))
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        left, top = round(x1), round(y1)
        right, bottom = max(left, round(x2) - 1), max(top, round(y2) - 1)
        if min(right - left, bottom - top) > 6 * width:
            drawing.rectangle((left, top, right, bottom), outline=(255, 255, 255), width=3 * width)
            left, top, right, bottom = left + width, top + width, right - width, bottom - width
        if min(right - left, bottom - top) < 2 * width:
            drawing.rectangle((left, top, right, bottom), fill=voc_color(label))
        else:
            drawing.rectangle((left, top, right, bottom), outline=voc_color(label), width=width)
    return np.asarray(canvas)
