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

from reslab.data.rng import RandomDraws, temporary_seed
from reslab.data.transforms.arguments import TransformArg
from reslab.data.transforms.rand_augment import rand_augment
from reslab.data.transforms.resize import (
    center_crop,
    check_fits,
    random_resized_crop,
    random_resized_crop_image,
    random_scale_crop,
    resize,
    size_text,
)
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class TransformOp:
    """A word: an example, its arguments, `batch(images, draws, *arguments)`, and `one(image, ...)` if of its own."""

    example: str
    reference: str
    args: tuple[TransformArg, ...]
    apply_batch: Callable[..., Tensor]
    apply_image: Callable[..., Tensor] | None = None


def pad(images: Tensor, _: RandomDraws, size: int, mode: str) -> Tensor:
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
            size_text(images),
            f"pad({min(images.shape[-2:]) - 1},reflect)",
        )
    rows, columns = (_reflected_indices(length, size, images.device) for length in images.shape[-2:])
    return images.index_select(-2, rows).index_select(-1, columns)


def crop(images: Tensor, draws: RandomDraws, size: int) -> Tensor:
    """A square of `size` at a place drawn evenly, each picture its own."""
    height, width = check_fits(images, size, "crop")
    top, left = draws.integers(0, height - size + 1), draws.integers(1, width - size + 1)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # a view: N, C, tops, lefts, size, size
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Left and right exchanged with a probability."""
    is_flipped = draws.bernoulli(0, probability)[:, None, None, None]
    return torch.where(is_flipped, images.flip(3), images)


def flip_image(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """`flip` of one picture."""
    return image.flip(2) if bool(draws.bernoulli(0, probability)) else image


# Krizhevsky's eigenvectors (columns) and the roots of the eigenvalues of ImageNet's colours, of pixels / 255.
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_EIGENVALUES = (0.2175, 0.0188, 0.0045)


def lighting(images: Tensor, draws: RandomDraws, std: float) -> Tensor:
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
    # Products and sums one by one, not a matrix product: that sums in another order for one image than for a batch.
    shift = torch.zeros(len(images), 3, device=images.device)
    for k in range(3):
        direction = images.new_tensor([row[k] for row in _EIGENVECTORS], dtype=torch.float32)
        shift = shift + (normal[k] * std * _EIGENVALUES[k])[:, None] * direction
    color_shift = shift[:, :, None, None]
    if images.dtype == torch.uint8:
        return (images + 255 * color_shift).round().clamp(0, 255).to(torch.uint8)
    return images + color_shift.to(images.dtype)


def _reflected_indices(length: int, size: int, device: torch.device) -> Tensor:
    index = torch.arange(-size, length + size, device=device).abs()
    return (length - 1) - ((length - 1) - index).abs()


def torchvision_op(
    example: str, reference: str, args: tuple[TransformArg, ...], make_transform: Callable[..., Any]
) -> TransformOp:
    """A word that is a random transform of torchvision: its global draws start from the sample's own number."""

    def apply_image(image: Tensor, draws: RandomDraws, *values: Any) -> Tensor:
        with temporary_seed(int(draws.bits(0)[0])):
            output: Tensor = make_transform(*values)(image)
        return output

    def apply_batch(images: Tensor, draws: RandomDraws, *values: Any) -> Tensor:
        transform, outputs = make_transform(*values), []
        for image, seed in zip(images, draws.bits(0).tolist(), strict=True):
            with temporary_seed(seed):
                outputs.append(transform(image))
        return torch.stack(outputs)

    return TransformOp(example, reference, args, apply_batch, apply_image)


_SIZE_ARG = TransformArg("pixels")
_INTERPOLATION_ARG = TransformArg("interpolation", str, choices=("bilinear", "bicubic"), default="bilinear")
_STRENGTH_ARG = TransformArg("strength", float, 0, 10, default=0.0)
_PROBABILITY_ARG = TransformArg("probability", float, 0, 1, default=0.5)
_HE2015 = "He et al. 2015, arXiv:1512.03385, section 4.2"
_SZEGEDY2014 = "Szegedy et al. 2014, arXiv:1409.4842, section 6; scale and aspect as torchvision"

TRANSFORM_OPS: dict[str, TransformOp] = {
    "pad": TransformOp(
        "pad(4)", _HE2015, (_SIZE_ARG, TransformArg("mode", str, choices=("zero", "reflect"), default="zero")), pad
    ),
    "crop": TransformOp("crop(32)", _HE2015, (_SIZE_ARG,), crop),
    "flip": TransformOp("flip", _HE2015, (_PROBABILITY_ARG,), flip, flip_image),
    "resize": TransformOp(
        "resize(256)", "torchvision", (_SIZE_ARG, TransformArg("width", int, 1, default=0), _INTERPOLATION_ARG), resize
    ),
    "center-crop": TransformOp("center-crop(224)", "torchvision", (_SIZE_ARG,), center_crop),
    "random-resized-crop": TransformOp(
        "random-resized-crop(224)",
        _SZEGEDY2014,
        (_SIZE_ARG, TransformArg("least area", float, 1e-4, 1, default=0.08), _INTERPOLATION_ARG),
        random_resized_crop,
        random_resized_crop_image,
    ),
    "random-scale-crop": TransformOp(
        "random-scale-crop(224,256,480)",
        "Simonyan and Zisserman 2014, arXiv:1409.1556, section 3.1; He et al. 2015, section 3.4",
        (_SIZE_ARG, TransformArg("least"), TransformArg("most")),
        random_scale_crop,
    ),
    "lighting": TransformOp(
        "lighting(0.1)",
        "Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs, section 4.1",
        (TransformArg("std", float, 0, 1),),
        lighting,
    ),
    "color-jitter": torchvision_op(
        "color-jitter(0.4,0.4,0.4)",
        "Howard 2013, arXiv:1312.5402, as torchvision: brightness, contrast, saturation, hue",
        (
            TransformArg("brightness", float, 0, 10),
            _STRENGTH_ARG,
            _STRENGTH_ARG,
            TransformArg("hue", float, 0, 0.5, default=0.0),
        ),
        lambda brightness, contrast, saturation, hue: v2.ColorJitter(brightness, contrast, saturation, hue),
    ),
    "randaugment": TransformOp(
        "randaugment(9,0.5)",
        "Cubuk et al. 2019, arXiv:1909.13719, in timm's increasing form: magnitude of 10, its deviation, operations",
        (
            TransformArg("magnitude", float, 0, 10, default=9.0),
            TransformArg("std", float, 0, 5, default=0.5),
            TransformArg("operations", default=2),
        ),
        rand_augment,
    ),
    "randaugment-torchvision": torchvision_op(
        "randaugment-torchvision(2,9)",
        "Cubuk et al. 2019, arXiv:1909.13719, as torchvision: operations, magnitude of 30",
        (TransformArg("operations", default=2), TransformArg("magnitude", int, 0, 30, default=9)),
        lambda operations, magnitude: v2.RandAugment(operations, magnitude),
    ),
    "trivial-augment": torchvision_op(
        "trivial-augment",
        "Müller and Hutter 2021, arXiv:2103.10158, as torchvision",
        (),
        lambda: v2.TrivialAugmentWide(),
    ),
    "erase": torchvision_op(
        "erase(0.1)",
        "Zhong et al. 2017, arXiv:1708.04896, as torchvision, with black",
        (_PROBABILITY_ARG,),
        lambda p: v2.RandomErasing(p),
    ),
}
