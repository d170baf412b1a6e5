"""The preprocessing that a network's weights expect."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocess:
    """From an image file to the network's input.

    Decode to `channels` channels of uint8, apply `transform`, divide by 255, then compute (x - mean) / std per channel.
    `transform` is an expression such as `resize(256) center-crop(224)`, empty for images of the right size.
    `mean_image` is a mean per pixel (written by `data.mean_image`), subtracted in place of `mean`, which then holds its
    average per channel.
    """

    channels: int
    transform: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean_image: str = ""
