"""RandAugment in timm's increasing form: every operation stronger with its magnitude, which is itself drawn.

Of 15 operations `num` are chosen, one after the other, each applied with probability 1/2 at a magnitude drawn from
N(magnitude, std), kept within 0 and 10 (timm's `rand-m9-mstd0.5-inc1`; Cubuk et al. 2019, arXiv:1909.13719; used by
Wightman, Touvron, Jegou 2021, arXiv:2110.00476, Table 2). What a turn or a shift uncovers is grey, 128.
"""

import math
from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from reslab.data.rng import Draws
from reslab.spec.errors import invalid

MOST = 10.0
PROBABILITY = 0.5
_GREY = 128
_DRAWS = 6
_WAYS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

Operation = Callable[[Image.Image, float, float, Image.Resampling], Image.Image]
"""(picture, level of 0..1, sign, way of interpolation) to the picture changed."""


def _affine(picture: Image.Image, numbers: tuple[float, ...], way: Image.Resampling) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, numbers, resample=way, fillcolor=_fill(picture))


def _fill(picture: Image.Image) -> int | tuple[int, int, int]:
    return _GREY if picture.mode == "L" else (_GREY, _GREY, _GREY)


def _solarize_add(picture: Image.Image, add: int) -> Image.Image:
    """Dark values (under 128) made brighter."""
    return picture.point([min(255, v + add) if v < 128 else v for v in range(256)] * len(picture.getbands()))


def _posterize(picture: Image.Image, bits: int) -> Image.Image:
    """The highest bits kept; of none of them (which Pillow 12 refuses) black is left."""
    return picture.point([value & (256 - (1 << (8 - bits))) for value in range(256)] * len(picture.getbands()))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, level, sign, _: kind(picture).enhance(max(0.1, 1.0 + sign * level * 0.9))


OPERATIONS: dict[str, Operation] = {
    "auto-contrast": lambda picture, *_: ImageOps.autocontrast(picture),
    "equalize": lambda picture, *_: ImageOps.equalize(picture),
    "invert": lambda picture, *_: ImageOps.invert(picture),
    "rotate": lambda picture, level, sign, way: picture.rotate(
        sign * level * 30.0, resample=way, fillcolor=_fill(picture)
    ),
    "posterize": lambda picture, level, *_: _posterize(picture, 4 - int(level * 4)),
    "solarize": lambda picture, level, *_: ImageOps.solarize(picture, 256 - min(256, int(level * 256))),
    "solarize-add": lambda picture, level, *_: _solarize_add(picture, min(128, int(level * 110))),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear-x": lambda picture, level, sign, way: _affine(picture, (1, sign * level * 0.3, 0, 0, 1, 0), way),
    "shear-y": lambda picture, level, sign, way: _affine(picture, (1, 0, 0, sign * level * 0.3, 1, 0), way),
    "translate-x": lambda picture, level, sign, way: _affine(
        picture, (1, 0, sign * level * 0.45 * picture.size[0], 0, 1, 0), way
    ),
    "translate-y": lambda picture, level, sign, way: _affine(
        picture, (1, 0, 0, 0, 1, sign * level * 0.45 * picture.size[1]), way
    ),
}
_ORDER = tuple(OPERATIONS.values())


def rand_augment(images: Tensor, draws: Draws, magnitude: float, std: float, num: int) -> Tensor:
    """`num` operations on each picture (N, 1 or 3, H, W); floats must lie in 0..1 and are rounded to 256 levels.

    Raises ValueError for another number of channels, or floats outside of 0..1.
    """
    pixels = _as_bytes(images)
    numbers = torch.stack([draws.uniform(k) for k in range(_DRAWS * num)], 1).tolist()
    changed = [_one(picture, row, magnitude, std) for picture, row in zip(pixels, numbers, strict=True)]
    found = torch.stack(changed).to(images.device)
    return found if images.dtype == torch.uint8 else found.to(images.dtype) / 255


def _one(pixels: Tensor, numbers: list[float], magnitude: float, std: float) -> Tensor:
    grey = len(pixels) == 1
    picture = Image.fromarray((pixels[0] if grey else pixels.permute(1, 2, 0)).contiguous().numpy())
    for first in range(0, len(numbers), _DRAWS):
        which, applied, radius, angle, sign, way = numbers[first : first + _DRAWS]
        if applied >= PROBABILITY:
            continue
        # Box and Muller 1958; 1 - u keeps the logarithm's argument above 0.
        drawn = magnitude + std * math.sqrt(-2 * math.log(1 - radius)) * math.cos(2 * math.pi * angle)
        level = max(0.0, min(drawn, MOST)) / MOST
        operation = _ORDER[int(which * len(_ORDER))]
        picture = operation(picture, level, -1.0 if sign >= 0.5 else 1.0, _WAYS[way >= 0.5])
    found = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return (
        found.view(1, picture.height, picture.width)
        if grey
        else found.view(picture.height, picture.width, 3).permute(2, 0, 1)
    )


def _as_bytes(images: Tensor) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise invalid("pictures of 1 or 3 channels for randaugment", f"{images.shape[1]} channels")
    if images.dtype == torch.uint8:
        return images.cpu()
    low, high = (float(edge) for edge in images.aminmax())
    if low < 0 or high > 1:
        raise invalid("pixels from 0 to 1 for randaugment", f"{low:g} to {high:g}", next_step="hand over uint8 pixels")
    return (images.cpu() * 255).round().to(torch.uint8)
