"""What is done to a picture before a network sees it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocess:
    """Decode to `channels` channels of uint8, apply `words`, divide by 255, then (x - mean) / std per channel.

    `words` is a sentence such as `resize(256) center-crop(224)`; empty where pictures are taken as they are. Where
    there is a `mean_image`, a mean of each pixel (written by `data.mean_image`), it is subtracted in place of `mean`,
    which tells its average per channel.
    """

    channels: int
    transform: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean_image: str = ""
