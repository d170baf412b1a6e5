"""Prepare one image for a network, as evaluation and prediction do: decode, transform, crop to its size, normalize."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.pil_pixels import pil_to_tensor
from reslab.data.transforms.normalize import Normalize
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess


def prepare_image(image: Any, preprocess: Preprocess, image_size: tuple[int, int] | None) -> Tensor:
    """Return the input (1, C, H, W), float32, for an image: Pillow, a path, or uint8 pixels.

    Pixels are an array (H, W), (H, W, C) or a tensor (C, H, W); after the transform, images of another size than
    `image_size` (height, width) are fitted to it. Raises ValueError for other types and shapes, or a file that cannot
    be read.
    """
    pixels = TransformPipeline(preprocess.transform).apply_image(to_pixels(image, preprocess.channels), 0)
    if image_size is not None:
        pixels = fit_image_size(pixels, image_size)
    return Normalize(preprocess, torch.device("cpu"))(pixels[None])


def to_pixels(image: Any, channels: int) -> Tensor:
    """Return uint8 pixels (channels, H, W) of an image: Pillow, a path, an array (H, W[, C]) or a tensor (C, H, W)."""
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image), channels)
    if isinstance(image, Image.Image):
        return pil_to_tensor(image, channels)
    if not isinstance(image, np.ndarray | Tensor):
        raise invalid("a Pillow image, a path, or uint8 pixels", f"a {type(image).__name__}")
    if str(image.dtype).removeprefix("torch.") != "uint8":
        nearest = "(image * 255).round() as uint8, for pixels from 0 to 1"
        raise invalid("pixels in uint8, from 0 to 255", image.dtype, nearest)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3):
        image = image.permute(1, 2, 0).cpu().numpy()
    array = np.asarray(image)
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        required = "pixels of shape (H, W), (H, W, 3) or (H, W, 4) in an array, (C, H, W) in a tensor"
        raise invalid(required, tuple(image.shape))
    return pil_to_tensor(Image.fromarray(array), channels)


def fit_image_size(pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return pixels (C, H, W) of this height and width; others are resized by the shorter side and center-cropped."""
    if tuple(pixels.shape[1:]) == image_size:
        return pixels
    height, width = image_size
    side = max(height, width)  # the shorter side becomes the network's longer one, so that the crop always fits
    square = TransformPipeline(f"resize({side}) center-crop({side})").apply_image(pixels, 0)
    top, left = (side - height) // 2, (side - width) // 2
    return square[:, top : top + height, left : left + width]
