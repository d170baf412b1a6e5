"""The values of a network's input, as its author states them: normalization, mean image, channel order and range."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.transforms.normalize import encode_mean_image
from reslab.nn.checkpoints.caffe_format import read_mean_blob
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess


@dataclass(frozen=True)
class InputValues:
    """Input values given to `evaluate` and its command; None and empty values leave those of the preprocessing.

    `mean_image`: an array (C, H, W) or (H, W, C), or a file (`.npy`, or `.binaryproto` of Caffe), subtracted in place
    of `mean`. `channel_order`: rgb or bgr, of the input and of all these values. `pixel_max`: the value of a white
    pixel, 1 or 255, that they are for. With a mean image or pixels to 255, `std` is 1 unless it is given.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    mean_image: Any = None
    channel_order: str | None = None
    pixel_max: float = 1.0

    def apply(self, base: Preprocess) -> Preprocess:
        """Return the preprocessing with these values. Raises ValueError for values that do not fit its channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != base.channels:
                raise invalid(f"{base.channels} numbers as {name}, one per channel", len(values))
        if self.mean is not None and self.mean_image is not None:
            raise invalid("mean or mean_image", "both", next_step="leave one of them out")
        if self.pixel_max <= 0:
            raise invalid("pixel_max above 0", self.pixel_max, "255")
        if self.pixel_max != 1 and self.mean is None and self.mean_image is None:
            raise invalid(
                "mean or mean_image with pixel_max", "neither", next_step="--mean 104 117 123 (of the weights)"
            )
        if self.channel_order is not None:
            if self.channel_order != base.channel_order and base.channels != 3:
                raise invalid("3 channels with channel_order", base.channels)
            base = _in_order(base, self.channel_order)
        changes: dict[str, Any] = {}
        if self.mean is not None:
            changes = {"mean": tuple(value / self.pixel_max for value in self.mean), "mean_image": ""}
        if self.mean_image is not None:
            image = read_mean_image(self.mean_image, base.channels) / self.pixel_max
            means = tuple(round(value, 6) for value in image.mean((1, 2)).tolist())
            changes = {"mean": means, "mean_image": encode_mean_image(image)}
        if self.std is not None:
            changes["std"] = tuple(value / self.pixel_max for value in self.std)
        elif self.mean_image is not None or self.pixel_max != 1:
            changes["std"] = (1 / self.pixel_max,) * base.channels
        return replace(base, **changes)


def _in_order(base: Preprocess, channel_order: str) -> Preprocess:
    """Return the preprocessing of the same images with the channels in this order, and the values with them."""
    if channel_order == base.channel_order or base.mean_image:
        return replace(base, channel_order=channel_order)
    return replace(base, channel_order=channel_order, mean=base.mean[::-1], std=base.std[::-1])


def read_mean_image(source: Any, channels: int) -> Tensor:
    """Return a mean image (C, H, W), float32, of an array or a file. Raises ValueError for another shape."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise invalid("a file with a mean image", f"{path}, which does not exist")
        source = read_mean_blob(path) if path.suffix == ".binaryproto" else _load_array(path)
    image = torch.as_tensor(np.asarray(source, dtype=np.float32))
    if image.ndim == 3 and image.shape[0] != channels and image.shape[2] == channels:
        image = image.permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != channels:
        raise invalid(f"a mean image of shape ({channels}, H, W) or (H, W, {channels})", tuple(image.shape))
    return image.contiguous()


def _load_array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise invalid("a mean image as .npy or .binaryproto", f"{path} ({error})") from error
