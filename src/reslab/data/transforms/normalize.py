"""Normalize images by mean and standard deviation per channel, or by a mean per pixel (the mean image)."""

import base64
import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reslab.spec.errors import invalid
from reslab.spec.preprocess import ChannelOrder, Preprocess

if TYPE_CHECKING:
    from reslab.data.image_datasets import ImageDataset

_ENCODED_PATTERN = re.compile(r"(\d+)x(\d+)x(\d+):([A-Za-z0-9+/]+)=*$")


class Normalize:
    """Compute (x / 255 - mean) / std per channel in float32; floats count as already divided by 255.

    RGB is turned into BGR first where the preprocessing says so.
    A mean image of the preprocessing is subtracted in place of the channel means.
    Raises ValueError if images have another number of channels, or another size than the mean image.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.device, self.channels = device, preprocess.channels
        self.mean = make_mean_tensor(preprocess, device)
        self.std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)[:, None, None]
        self.is_bgr = preprocess.channel_order == ChannelOrder.BGR
        self.per_pixel = bool(preprocess.mean_image)

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.channels:
            raise invalid(f"images of {self.channels} channels", f"{images.shape[1]} channels")
        if self.per_pixel and images.shape[2:] != self.mean.shape[1:]:
            required, got = ("x".join(map(str, shape[-2:])) for shape in (self.mean.shape, images.shape))
            raise invalid(f"images of {required} for a mean of each pixel", got, f"a transform that ends at {required}")
        images = images.flip(1) if self.is_bgr else images
        mean, std = self.mean, self.std
        if images.ndim != 4:  # signals and volumes
            mean, std = (vector.view(-1, *([1] * (images.ndim - 2))) for vector in (mean, std))
        if images.dtype == torch.uint8:
            return images.to(torch.float32).div_(255).sub_(mean).div_(std)
        return images.to(torch.float32).sub(mean).div_(std)


def make_mean_tensor(preprocess: Preprocess, device: torch.device | str) -> Tensor:
    """Return what is subtracted from pixels / 255: (C, 1, 1), or (C, H, W) for a mean image."""
    if preprocess.mean_image:
        return decode_mean_image(preprocess.mean_image).to(device)
    return torch.tensor(preprocess.mean, dtype=torch.float32, device=device)[:, None, None]


def compute_mean_image(dataset: "ImageDataset") -> Tensor:
    """Return the mean of pixels / 255 at every position, (C, H, W) float32.

    It is summed in integers, so it is the same on every machine. Raises ValueError unless the images are uint8, of one
    size and in memory.
    """
    from reslab.data.image_datasets import TensorImageDataset  # here, because it imports the decoders of images

    if not isinstance(dataset, TensorImageDataset) or dataset.images.dtype != torch.uint8:
        kind = "floats" if isinstance(dataset, TensorImageDataset) else "images in files, or with masks or boxes"
        next_step = "set normalize.per_pixel_mean=false for a mean of each channel"
        raise invalid("uint8 images of one size in memory for a mean of each pixel", kind, next_step=next_step)
    total = sum(chunk.to(torch.int64).sum(0) for chunk in dataset.images.split(4096))
    assert isinstance(total, Tensor)
    return (total.double() / (255 * len(dataset))).float()


def encode_mean_image(mean: Tensor) -> str:
    """Write a mean image as text, `3x32x32:` and the float32 values in base64, which restores them bit for bit."""
    values = mean.contiguous().numpy().astype("<f4").tobytes()
    return f"{'x'.join(map(str, mean.shape))}:{base64.b64encode(values).decode()}"


def decode_mean_image(text: str) -> Tensor:
    """Read the mean image (C, H, W) that `encode_mean_image` wrote. Raises ValueError if the text is damaged."""
    match = _ENCODED_PATTERN.match(text)
    shape = tuple(int(side) for side in match.groups()[:3]) if match else (0,)
    values = base64.b64decode(match[4] + "=" * (-len(match[4]) % 4)) if match else b""
    if match is None or len(values) != 4 * np.prod(shape):
        next_step = "write the preprocessing again"
        raise invalid("a mean_image of CxHxW: and its values", repr(text[:24]), next_step=next_step)
    return torch.from_numpy(np.frombuffer(values, "<f4").reshape(shape).astype(np.float32))
