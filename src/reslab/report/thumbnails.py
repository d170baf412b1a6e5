"""Images small enough to be embedded in a page as data URIs."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from reslab.spec.errors import invalid

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
