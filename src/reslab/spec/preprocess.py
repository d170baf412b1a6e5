"""The preprocessing that a network's weights expect."""

from dataclasses import dataclass, replace
from enum import StrEnum

from reslab.spec.errors import unknown_name


class ChannelOrder(StrEnum):
    """The order of the color channels of a network's input; image files are decoded as RGB."""

    RGB = "rgb"
    BGR = "bgr"


@dataclass(frozen=True)
class Preprocess:
    """From an image file to the network's input.

    Decode to `channels` channels of uint8, apply `transform`, divide by 255, then compute (x - mean) / std per channel.
    `transform` is an expression such as `resize(256) center-crop(224)`, empty for images of the right size.
    `mean_image` is a mean per pixel (written by `data.mean_image`), subtracted in place of `mean`, which then holds its
    average per channel. `channel_order`: that of the input (BGR in Caffe), and so of `mean`, `std` and `mean_image`.
    """

    channels: int
    transform: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean_image: str = ""
    channel_order: str = ChannelOrder.RGB

    def __post_init__(self) -> None:
        if self.channel_order not in list(ChannelOrder):
            raise unknown_name("channel order", self.channel_order, list(ChannelOrder))


def unit_preprocess(preprocess: Preprocess) -> Preprocess:
    """Return the scaling to [0, 1] alone, for networks that resize and normalize images themselves."""
    zeros, ones = (0.0,) * preprocess.channels, (1.0,) * preprocess.channels
    return replace(preprocess, transform="", mean=zeros, std=ones, mean_image="")
