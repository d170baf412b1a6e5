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

from reslab.data.rng import Draws, seeded
from reslab.data.transforms.arguments import Argument
from reslab.data.transforms.rand_augment import rand_augment
from reslab.data.transforms.resize import (
    center_crop,
    fits,
    one_random_resized_crop,
    random_resized_crop,
    random_scale_crop,
    resize,
    size_words,
)
from reslab.spec.errors import invalid


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
        raise invalid(
            f"pad({size},reflect) on pictures of more than {size} pixels a side",
            size_words(images),
            f"pad({min(images.shape[-2:]) - 1},reflect)",
        )
    rows, columns = (_mirrored(length, size, images.device) for length in images.shape[-2:])
    return images.index_select(-2, rows).index_select(-1, columns)


def crop(images: Tensor, draws: Draws, size: int) -> Tensor:
    """A square of `size` at a place drawn evenly, each picture its own."""
    height, width = fits(images, size, "crop")
    top, left = draws.integers(0, height - size + 1), draws.integers(1, width - size + 1)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # a view: N, C, tops, lefts, size, size
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor, draws: Draws, probability: float) -> Tensor:
    """Left and right exchanged with a probability."""
    turned = draws.chance(0, probability)[:, None, None, None]
    return torch.where(turned, images.flip(3), images)


def flip_one(image: Tensor, draws: Draws, probability: float) -> Tensor:
    """`flip` of one picture."""
    return image.flip(2) if bool(draws.chance(0, probability)) else image


# Krizhevsky's eigenvectors (columns) and the roots of the eigenvalues of ImageNet's colours, of pixels / 255.
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_EIGENVALUES = (0.2175, 0.0188, 0.0045)


def lighting(images: Tensor, draws: Draws, std: float) -> Tensor:
    """To every pixel of a picture the same colour added: P (a * l), a ~ N(0, std^2) three draws, P and l ImageNet's.

    Raises ValueError where the pictures are not of 3 channels.
    """
    if images.shape[1] != 3:
        raise invalid("pictures of 3 channels for lighting", f"{images.shape[1]} channels")
    # Box and Muller 1958; 1 - u keeps the logarithm's argument above 0.
    normal = [
        (-2 * torch.log(1 - draws.uniform(2 * k))).sqrt() * torch.cos(2 * math.pi * draws.uniform(2 * k + 1))
        for k in range(3)
    ]
    along = torch.stack(normal, 1) * std * images.new_tensor(_EIGENVALUES, dtype=torch.float32)
    colour = (along @ images.new_tensor(_EIGENVECTORS, dtype=torch.float32).T)[:, :, None, None]
    if images.dtype == torch.uint8:
        return (images + 255 * colour).round().clamp(0, 255).to(torch.uint8)
    return images + colour.to(images.dtype)


def _mirrored(length: int, size: int, device: torch.device) -> Tensor:
    place = torch.arange(-size, length + size, device=device).abs()
    return (length - 1) - ((length - 1) - place).abs()


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
_WAY = Argument("interpolation", str, choices=("bilinear", "bicubic"), default="bilinear")
_STRENGTH = Argument("strength", float, 0, 10, default=0.0)
_PROBABILITY = Argument("probability", float, 0, 1, default=0.5)
_HE2015 = "He et al. 2015, arXiv:1512.03385, section 4.2"
_SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842, section 6; scale and aspect as torchvision"

AUGMENT_WORDS: dict[str, AugmentWord] = {
    "pad": AugmentWord(
        "pad(4)", _HE2015, (_PIXELS, Argument("mode", str, choices=("zero", "reflect"), default="zero")), pad
    ),
    "crop": AugmentWord("crop(32)", _HE2015, (_PIXELS,), crop),
    "flip": AugmentWord("flip", _HE2015, (_PROBABILITY,), flip, flip_one),
    "resize": AugmentWord("resize(256)", "torchvision", (_PIXELS, Argument("width", int, 1, default=0), _WAY), resize),
    "center-crop": AugmentWord("center-crop(224)", "torchvision", (_PIXELS,), center_crop),
    "random-resized-crop": AugmentWord(
        "random-resized-crop(224)",
        _SZEGEDY,
        (_PIXELS, Argument("least area", float, 1e-4, 1, default=0.08), _WAY),
        random_resized_crop,
        one_random_resized_crop,
    ),
    "random-scale-crop": AugmentWord(
        "random-scale-crop(224,256,480)",
        "Simonyan and Zisserman 2014, arXiv:1409.1556, section 3.1; He et al. 2015, section 3.4",
        (_PIXELS, Argument("least"), Argument("most")),
        random_scale_crop,
    ),
    "lighting": AugmentWord(
        "lighting(0.1)",
        "Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs, section 4.1",
        (Argument("std", float, 0, 1),),
        lighting,
    ),
    "color-jitter": torchvision_word(
        "color-jitter(0.4,0.4,0.4)",
        "Howard 2013, arXiv:1312.5402, as torchvision: brightness, contrast, saturation, hue",
        (Argument("brightness", float, 0, 10), _STRENGTH, _STRENGTH, Argument("hue", float, 0, 0.5, default=0.0)),
        lambda brightness, contrast, saturation, hue: v2.ColorJitter(brightness, contrast, saturation, hue),
    ),
    "randaugment": AugmentWord(
        "randaugment(9,0.5)",
        "Cubuk et al. 2019, arXiv:1909.13719, in timm's increasing form: magnitude of 10, its deviation, operations",
        (
            Argument("magnitude", float, 0, 10, default=9.0),
            Argument("std", float, 0, 5, default=0.5),
            Argument("operations", default=2),
        ),
        rand_augment,
    ),
    "randaugment-torchvision": torchvision_word(
        "randaugment-torchvision(2,9)",
        "Cubuk et al. 2019, arXiv:1909.13719, as torchvision: operations, magnitude of 30",
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
