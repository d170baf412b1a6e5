"""Images small enough to live inside a page."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from reslab.spec.errors import refuse

LARGEST_SIDE = 192
TINY_SIDE = 64


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI; `tiny` ones are to be shown enlarged with their pixels kept square."""

    uri: str
    width: int
    height: int
    tiny: bool


def thumbnail(pixels: np.ndarray) -> Thumbnail:
    """uint8 pixels (H, W), (H, W, 1) or (H, W, 3), shrunk to LARGEST_SIDE, as PNG or JPEG, whichever is smaller.

    Raises ValueError for any other type or shape.
    """
    image = Image.fromarray(_checked(pixels))
    tiny = max(image.size) <= TINY_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    kinds = [_data_uri(image, "PNG", optimize=True)]
    if not tiny:
        kinds.append(_data_uri(image, "JPEG", quality=85))
    return Thumbnail(min(kinds, key=len), image.width, image.height, tiny)


def _checked(pixels: np.ndarray) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    right_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not right_shape or pixels.size == 0:
        raise refuse("uint8 pixels of shape (H, W) or (H, W, 3)", f"{pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels)


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def pixels_of(uri: str) -> np.ndarray:
    """The uint8 pixels (H, W, 3) of an image that `thumbnail` put into a data URI."""
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
