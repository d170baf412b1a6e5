"""What is done to a picture before a network sees it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocess:
    """Decode to `channels` channels of uint8, apply `words`, divide by 255, then (x - mean) / std per channel.

    `words` is a sentence such as `resize(256) center-crop(224)`; empty where pictures are taken as they are.
    """

    channels: int
    words: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
