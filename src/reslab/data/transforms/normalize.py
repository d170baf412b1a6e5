"""The mean of the training pictures at every pixel: taken, written as text, read again, subtracted."""

import base64
import re

import numpy as np
import torch
from torch import Tensor

from reslab.data.image_datasets import ImageDataset, TensorImageDataset
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

_ENCODED_PATTERN = re.compile(r"(\d+)x(\d+)x(\d+):([A-Za-z0-9+/]+)=*$")


def compute_mean_image(dataset: ImageDataset) -> Tensor:
    """The mean of pixels / 255 at every place, (C, H, W) float32, summed in whole numbers: the same on every machine.

    Raises ValueError where the pictures are not all of one size and in memory.
    """
    if not isinstance(dataset, TensorImageDataset) or dataset.images.dtype != torch.uint8:
        next_step = "set normalize.per_pixel_mean=false for a mean of each channel"
        raise invalid("small pictures of one size for a mean of each pixel", "others", next_step=next_step)
    total = sum(chunk.to(torch.int64).sum(0) for chunk in dataset.images.split(4096))
    assert isinstance(total, Tensor)
    return (total.double() / (255 * len(dataset))).float()


def encode_mean_image(mean: Tensor) -> str:
    """`3x32x32:` and the values, float32 in base64: bit for bit what `read_mean_image` gives back."""
    values = mean.contiguous().numpy().astype("<f4").tobytes()
    return f"{'x'.join(map(str, mean.shape))}:{base64.b64encode(values).decode()}"


def decode_mean_image(text: str) -> Tensor:
    """The mean (C, H, W) that `write_mean_image` wrote. Raises ValueError where the text is damaged."""
    match = _ENCODED_PATTERN.match(text)
    shape = tuple(int(side) for side in match.groups()[:3]) if match else (0,)
    values = base64.b64decode(match[4] + "=" * (-len(match[4]) % 4)) if match else b""
    if match is None or len(values) != 4 * np.prod(shape):
        raise invalid(
            "a mean_image of CxHxW: and its values", repr(text[:24]), next_step="write the preprocessing anew"
        )
    return torch.from_numpy(np.frombuffer(values, "<f4").reshape(shape).astype(np.float32))


def make_mean_tensor(preprocess: Preprocess, device: torch.device | str) -> Tensor:
    """What is subtracted, of pixels / 255: (C, 1, 1), or (C, H, W) where there is a mean of each pixel."""
    if preprocess.mean_image:
        return decode_mean_image(preprocess.mean_image).to(device)
    return torch.tensor(preprocess.mean, dtype=torch.float32, device=device)[:, None, None]
