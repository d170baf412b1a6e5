"""The words of augmentation and what each does: `pad crop flip resize center-crop random-resized-crop` and more.

A word is one line of `AUGMENT_WORDS`: its arguments, what it does to a batch (N, C, H, W) at once, and, where that
differs from a batch of one, what it does to one picture (C, H, W). Chance comes from `Draws` alone: functions of
(seed, epoch, sample, place of the word). Pixels are uint8 of 0..255 or float, and keep their type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as pictures

from reslab.data.chance import Draws, seeded
from reslab.spec.errors import refuse

_TRIES = 10


@dataclass(frozen=True)
class Argument:
    """One argument of a word: a number of `kind` between bounds, or one of `choices`; required where no `default`."""

    name: str
    kind: type = int
    least: float = 1
    most: float = math.inf
    choices: tuple[str, ...] = ()
    default: float | str | None = None


@dataclass(frozen=True)
class AugmentWord:
    """A word: an example, its arguments, `batch(images, draws, *arguments)`, and `one(image, ...)` if of its own."""

    example: str
    source: str
    arguments: tuple[Argument, ...]
    batch: Callable[..., Tensor]
    one: Callable[..., Tensor] | None = None


def pad(images: Tensor, _: Draws, size: int, mode: str) -> Tensor:
    """`size` pixels on every side: black (zeros, before normalisation) or mirrored without the edge."""
    height, width = images.shape[-2:]
    if mode == "zero":
        # On a CPU two to three times as fast as functional.pad.
        padded = images.new_zeros((*images.shape[:-2], height + 2 * size, width + 2 * size))
        padded[..., size : size + height, size : size + width] = images
        return padded
    if size >= min(images.shape[-2:]):
        raise refuse(
            f"pad({size},reflect) on pictures of more than {size} pixels a side",
            _size(images),
            f"pad({min(images.shape[-2:]) - 1},reflect)",
        )
    rows, columns = (_mirrored(length, size, images.device) for length in images.shape[-2:])
    return images.index_select(-2, rows).index_select(-1, columns)


def crop(images: Tensor, draws: Draws, size: int) -> Tensor:
    """A square of `size` at a place drawn evenly, each picture its own."""
    height, width = _fits(images, size, "crop")
    top, left = draws.integers(0, height - size + 1), draws.integers(1, width - size + 1)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # a view: N, C, tops, lefts, size, size
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor, draws: Draws, probability: float) -> Tensor:
    """Left and right exchanged with a probability."""
    turned = draws.chance(0, probability)[:, None, None, None]
    return torch.where(turned, images.flip(3), images)


def resize(images: Tensor, _: Draws, size: int, width: int) -> Tensor:
    """The shorter side to `size`, the other in proportion, rounded down; or `size` x `width`; bilinear, antialiased."""
    resized: Tensor = pictures.resize(images, [size, width] if width else [size], antialias=True)
    return resized


def center_crop(images: Tensor, _: Draws, size: int) -> Tensor:
    """The square of `size` in the middle."""
    height, width = _fits(images, size, "center-crop")
    # Where a side is odd the middle is torchvision's, round(difference / 2), ties to even.
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return images[..., top : top + size, left : left + size]


def random_boxes(draws: Draws, height: int, width: int, least: float) -> Tensor:
    """Boxes (top, left, height, width), (N, 4) int64: area from `least` to 1 of the picture, aspect from 3/4 to 4/3.

    Of ten tries the first that fits; where none does, the largest middle box of an allowed aspect (as torchvision).
    """
    tries = range(_TRIES)
    area = torch.stack([draws.uniform(4 * k) for k in tries], 1) * (1 - least) + least
    aspect = torch.exp((torch.stack([draws.uniform(4 * k + 1) for k in tries], 1) * 2 - 1) * math.log(4 / 3))
    widths = (area * height * width * aspect).sqrt().round().long()
    heights = (area * height * width / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    box_height, box_width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    some = fits.any(1)
    box_height = torch.where(some, box_height, min(height, round(width / (3 / 4))))
    box_width = torch.where(some, box_width, min(width, round(height * (4 / 3))))
    top = (draws.uniform(4 * _TRIES) * (height - box_height + 1)).long()
    left = (draws.uniform(4 * _TRIES + 1) * (width - box_width + 1)).long()
    middle_top, middle_left = (height - box_height) // 2, (width - box_width) // 2
    return torch.stack(
        (torch.where(some, top, middle_top), torch.where(some, left, middle_left), box_height, box_width), 1
    )


def random_resized_crop(images: Tensor, draws: Draws, size: int, least: float) -> Tensor:
    """A box of random place, area and aspect, brought to size x size; for each picture by its own weights.

    out = rows @ image @ columns^T with the weights of antialiased bilinear interpolation; within one grey level of
    `pictures.resized_crop`, which rounds in between.
    """
    top, left, height, width = random_boxes(draws, images.shape[-2], images.shape[-1], least).unbind(1)
    rows = _weights(top, height, images.shape[-2], size)
    columns = _weights(left, width, images.shape[-1], size)
    found = rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)
    return found.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else found.to(images.dtype)


def one_random_resized_crop(image: Tensor, draws: Draws, size: int, least: float) -> Tensor:
    """`random_resized_crop` of one picture of any size, by torchvision."""
    top, left, height, width = random_boxes(draws, image.shape[-2], image.shape[-1], least)[0].tolist()
    cropped: Tensor = pictures.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return cropped


def _weights(start: Tensor, length: Tensor, num_pixels: int, size: int) -> Tensor:
    """(N, size, num_pixels): output pixel i of sample n as a mean of the pixels of its box, triangular, scale wide."""
    scale = (length.float() / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    place = torch.arange(num_pixels, device=start.device)
    near = (1 - (place + 0.5 - centre).abs() / scale.clamp_min(1)).clamp_min(0)
    inside = (place >= start[:, None, None]) & (place < (start + length)[:, None, None])
    near = near * inside
    return near / near.sum(2, keepdim=True)


def _mirrored(length: int, size: int, device: torch.device) -> Tensor:
    place = torch.arange(-size, length + size, device=device).abs()
    return (length - 1) - ((length - 1) - place).abs()


def _fits(images: Tensor, size: int, word: str) -> tuple[int, int]:
    height, width = images.shape[-2:]
    if size > min(height, width):
        nearest = f"{word}({min(height, width)})"
        raise refuse(
            f"pictures of at least {size}x{size} for {word}({size})",
            _size(images),
            nearest,
            "or resize or pad before it",
        )
    return height, width


def _size(images: Tensor) -> str:
    return f"pictures of {images.shape[-2]}x{images.shape[-1]}"


def torchvision_word(
    example: str, source: str, arguments: tuple[Argument, ...], make: Callable[..., Any]
) -> AugmentWord:
    """A word that is a random transform of torchvision: its global draws start from the sample's own number."""

    def one(image: Tensor, draws: Draws, *given: Any) -> Tensor:
        with seeded(int(draws.bits(0)[0])):
            changed: Tensor = make(*given)(image)
        return changed

    def batch(images: Tensor, draws: Draws, *given: Any) -> Tensor:
        transform, changed = make(*given), []
        for image, number in zip(images, draws.bits(0).tolist(), strict=True):
            with seeded(number):
                changed.append(transform(image))
        return torch.stack(changed)

    return AugmentWord(example, source, arguments, batch, one)


_PIXELS = Argument("pixels")
_PROBABILITY = Argument("probability", float, 0, 1, default=0.5)
_HE2015 = "He et al. 2015, arXiv:1512.03385, section 4.2"
_SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842, section 6; scale and aspect as torchvision"

AUGMENT_WORDS: dict[str, AugmentWord] = {
    "pad": AugmentWord(
        "pad(4)", _HE2015, (_PIXELS, Argument("mode", str, choices=("zero", "reflect"), default="zero")), pad
    ),
    "crop": AugmentWord("crop(32)", _HE2015, (_PIXELS,), crop),
    "flip": AugmentWord("flip", _HE2015, (_PROBABILITY,), flip),
    "resize": AugmentWord("resize(256)", "torchvision", (_PIXELS, Argument("width", int, 1, default=0)), resize),
    "center-crop": AugmentWord("center-crop(224)", "torchvision", (_PIXELS,), center_crop),
    "random-resized-crop": AugmentWord(
        "random-resized-crop(224)",
        _SZEGEDY,
        (_PIXELS, Argument("least area", float, 1e-4, 1, default=0.08)),
        random_resized_crop,
        one_random_resized_crop,
    ),
    "randaugment": torchvision_word(
        "randaugment(2,9)",
        "Cubuk et al. 2019, arXiv:1909.13719, as torchvision",
        (Argument("operations", default=2), Argument("magnitude", int, 0, 30, default=9)),
        lambda operations, magnitude: v2.RandAugment(operations, magnitude),
    ),
    "trivial-augment": torchvision_word(
        "trivial-augment",
        "Müller and Hutter 2021, arXiv:2103.10158, as torchvision",
        (),
        lambda: v2.TrivialAugmentWide(),
    ),
    "erase": torchvision_word(
        "erase(0.1)",
        "Zhong et al. 2017, arXiv:1708.04896, as torchvision, with black",
        (_PROBABILITY,),
        lambda p: v2.RandomErasing(p),
    ),
}
