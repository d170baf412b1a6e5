"""Images on pages: small ones as data URIs, and boxes and masks over images.

Boxes are outlines with class and score; masks have a color for each class, and stripes for void pixels. As files,
masks are images of mode P in the palette of PASCAL VOC.
"""

import base64
import colorsys
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reslab.data.mask_colors import Color, voc_color
from reslab.spec.errors import invalid


def mask_image(mask: np.ndarray) -> Image.Image:
    """Return a mask (H, W) uint8 of class numbers as an image of mode P with the palette of PASCAL VOC."""
    image = Image.fromarray(mask, mode="P")
    image.putpalette([value for number in range(256) for value in voc_color(number)])
    return image


def unique_stems(paths: Iterable[str]) -> dict[str, str]:
    """Return the name of the file of each image's mask, without its ending: that of the image.

    Where several images have one name, theirs are the whole paths: `photos_cat_1.jpg`.
    """
    distinct = list(dict.fromkeys(paths))
    counts = Counter(Path(path).stem for path in distinct)
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for path in distinct:
        stem = Path(path).stem
        if counts[stem] > 1 or not stem.strip("."):
            stem = path.strip("./").replace("/", "_").replace("\\", "_") or "image"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        stems[path] = name
    return stems


MAX_THUMBNAIL_SIDE = 192
MAX_TINY_SIDE = 64


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, with its size in pixels; pages enlarge `is_tiny` ones with square pixels."""

    uri: str
    width: int
    height: int
    is_tiny: bool


def make_thumbnail(pixels: np.ndarray, max_side: int = MAX_THUMBNAIL_SIDE) -> Thumbnail:
    """Shrink uint8 pixels (H, W), (H, W, 1) or (H, W, 3) to at most `max_side` pixels a side, as PNG or JPEG.

    Images above 64 pixels are stored in whichever format is smaller. Raises ValueError for another dtype or shape.
    """
    image = Image.fromarray(_check_pixels(pixels))
    is_tiny = max(image.size) <= MAX_TINY_SIDE
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    data_uris = [_data_uri(image, "PNG", optimize=True)]
    if not is_tiny:
        data_uris.append(_data_uri(image, "JPEG", quality=85))
    return Thumbnail(min(data_uris, key=len), image.width, image.height, is_tiny)


def decode_data_uri(uri: str) -> np.ndarray:
    """Return the uint8 pixels (H, W, 3) of a data URI that `make_thumbnail` wrote."""
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_valid_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_valid_shape or pixels.size == 0:
        raise invalid("uint8 pixels of shape (H, W) or (H, W, 3)", f"{pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels)


def _data_uri(image: Image.Image, image_format: str, **options: object) -> str:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


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
    from reslab.data.masks import VOID

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


_WIDTH_SHARE, _FONT_SHARE = 0.006, 0.024  # of the longer side of an image
_MIN_FONT_SIZE = 11
_DASH_WIDTHS = (5, 4)  # a dash and the gap after it, in widths of the line
_WHITE, _INK = (255, 255, 255), (20, 23, 27)
# The colors of Okabe and Ito (2008, Color Universal Design) that stand out from white and from black.
_FIRST_COLORS: tuple[Color, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66),
)  # fmt: skip
# Fonts of the system, tried for names in scripts that DejaVu Sans lacks.
_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "PingFang.ttc", "msyh.ttc", "Arial Unicode.ttf")
_Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class MarkedBox:
    """A box (x1, y1, x2, y2) in pixels of an image, its color, its label ("" for none), and whether it is dashed."""

    box: Sequence[float]
    color: Color
    label: str = ""
    is_dashed: bool = False


def draw_boxes(
    image: Image.Image | np.ndarray,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
) -> Image.Image:
    """Return a copy of the image, RGB, with boxes and the names and scores of their classes.

    `boxes` are (x1, y1, x2, y2) in pixels of the image, the right and lower ends excluded; `labels` are the indices of
    classes from 0, and `class_names` their names; without names there is no text. Boxes of higher score are drawn over
    others. Raises ValueError for numbers of boxes, labels and scores that differ, for labels without a name, and for an
    array other than uint8 (H, W) or (H, W, 3).
    """
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        got = f"{len(boxes)} boxes, {len(labels)} labels" + ("" if scores is None else f", {len(scores)} scores")
        raise invalid("a label, and a score if any, for each box", got)
    if class_names and any(not 0 <= label < len(class_names) for label in labels):
        raise invalid(f"labels from 0 to {len(class_names) - 1}", f"{min(labels)} to {max(labels)}")
    order = range(len(boxes)) if scores is None else sorted(range(len(boxes)), key=lambda i: scores[i])
    marks = [
        MarkedBox(
            boxes[i],
            box_color(labels[i]),
            box_text(class_names[labels[i]], None if scores is None else scores[i]) if class_names else "",
        )
        for i in order
    ]
    return mark_boxes(image, marks)


def box_color(label: int) -> Color:
    """Return the color of a class, by its index from 0."""
    if label < len(_FIRST_COLORS):
        return _FIRST_COLORS[label]
    color = class_color(label + 1)
    assert color is not None
    return color


def box_text(name: str, score: float | None = None) -> str:
    """Return the text of a box: `dog 0.98`, with a score that is not rounded up to 1."""
    if score is None:
        return name
    return f"{name} {min(score, 0.99) if score < 1 else score:.2f}"


def mark_boxes(image: Image.Image | np.ndarray, marks: Sequence[MarkedBox]) -> Image.Image:
    """Return a copy of the image, RGB, with boxes, the last on top, and their labels where they cover no other label.

    Lines and text grow with the image. A narrow box is filled. Raises ValueError for an array other than uint8 (H, W)
    or (H, W, 3).
    """
    canvas = _to_image(image)
    drawing = ImageDraw.Draw(canvas)
    side = max(canvas.size)
    width, font_size = max(1, round(_WIDTH_SHARE * side)), max(_MIN_FONT_SIZE, round(_FONT_SHARE * side))
    for mark in marks:
        _draw_outline(drawing, mark, width)
    occupied: list[_Rectangle] = []
    for mark in reversed(marks):  # the best places go to the labels of the boxes on top
        if mark.label:
            occupied.append(_draw_label(drawing, mark, font_size, occupied))
    return canvas


def _to_image(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise invalid("a uint8 image (H, W) or (H, W, 3)", f"{image.dtype} of shape {image.shape}")
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def _draw_outline(drawing: ImageDraw.ImageDraw, mark: MarkedBox, width: int) -> None:
    """Draw the outline between two white or dark lines, all inside the box, or fill a box without room for that."""
    x1, y1, x2, y2 = mark.box
    left, top = round(x1), round(y1)
    right, bottom = max(left, round(x2) - 1), max(top, round(y2) - 1)
    edge = (width + 1) // 2
    if min(right - left, bottom - top) > 6 * width:
        drawing.rectangle((left, top, right, bottom), outline=_contrast(mark.color), width=width + 2 * edge)
        left, top, right, bottom = left + edge, top + edge, right - edge, bottom - edge
    if min(right - left, bottom - top) < 2 * width:
        drawing.rectangle((left, top, right, bottom), fill=mark.color)
    elif mark.is_dashed:
        for dash in _dashes((left, top, right, bottom), width):
            drawing.rectangle(dash, fill=mark.color)
    else:
        drawing.rectangle((left, top, right, bottom), outline=mark.color, width=width)


def _dashes(box: tuple[int, int, int, int], width: int) -> list[tuple[int, int, int, int]]:
    """Return the dashes of an outline as filled rectangles; every side starts at its upper or left corner."""
    left, top, right, bottom = box
    dash, period = _DASH_WIDTHS[0] * width, sum(_DASH_WIDTHS) * width
    across = [(x, min(x + dash - 1, right)) for x in range(left, right + 1, period)]
    down = [(y, min(y + dash - 1, bottom)) for y in range(top, bottom + 1, period)]
    return [
        *((x, y, end, y + width - 1) for x, end in across for y in (top, bottom - width + 1)),
        *((x, y, x + width - 1, end) for y, end in down for x in (left, right - width + 1)),
    ]


def _draw_label(
    drawing: ImageDraw.ImageDraw, mark: MarkedBox, font_size: int, occupied: Sequence[_Rectangle]
) -> _Rectangle:
    """Draw the label on a ground of the box's color, where it covers the fewest labels; return its rectangle."""
    font = _font(font_size, mark.label)
    x1, y1, x2, y2 = mark.box
    padding = max(2, font_size // 5)
    ascent, descent = font.getmetrics()
    width, height = font.getlength(mark.label) + 2 * padding, ascent + descent + padding // 2
    canvas_width, canvas_height = drawing.im.size
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2), (x1, y2 - height), (x2 - width, y2)]
    positions = [(max(0.0, min(x, canvas_width - width)), max(0.0, min(y, canvas_height - height))) for x, y in corners]
    rectangles = [(x, y, x + width, y + height) for x, y in positions]
    rectangle = min(rectangles, key=lambda rectangle: sum(_intersection(rectangle, other) for other in occupied))
    left, top, right, bottom = rectangle
    drawing.rectangle((left, top, right - 1, bottom - 1), fill=mark.color)
    drawing.text((left + padding, top + padding // 4), mark.label, fill=_contrast(mark.color), font=font)
    return rectangle


def _intersection(one: _Rectangle, other: _Rectangle) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _contrast(ground: Color) -> Color:
    """Return white or near black, whichever has the higher contrast (WCAG 2.1, relative luminance)."""
    white, ink, luminance = (_luminance(color) + 0.05 for color in (_WHITE, _INK, ground))
    return _INK if luminance / ink > white / luminance else _WHITE


def _luminance(color: Color) -> float:
    red, green, blue = ((value / 255) ** 2.2 for value in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, or the first font of the system that has all characters of the text where it does not."""
    from matplotlib import get_data_path  # which brings the font; imported here, as it is slow

    bundled = _load_font(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    assert bundled is not None
    fonts = (bundled, *(_load_font(name, size) for name in _SYSTEM_FONTS)) if not text.isascii() else ()
    return next((font for font in fonts if font is not None and _has_characters(font, text)), bundled)


@lru_cache
def _load_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has_characters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask("\ufffe"))
    return not any(bytes(font.getmask(character)) == missing for character in set(text) if not character.isspace())
