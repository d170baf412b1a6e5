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

from reslab.data.rng import RandomDraws
from reslab.spec.errors import invalid

MAX_MAGNITUDE = 10.0
APPLY_PROBABILITY = 0.5
_GRAY = 128
_DRAWS_PER_OP = 6
_INTERPOLATIONS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)

RandAugmentFn = Callable[[Image.Image, float, float, Image.Resampling], Image.Image]
"""(picture, level of 0..1, sign, way of interpolation) to the picture changed."""


def _affine(image: Image.Image, coefficients: tuple[float, ...], interpolation: Image.Resampling) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=interpolation, fillcolor=_fill_color(image)
    )


def _fill_color(image: Image.Image) -> int | tuple[int, int, int]:
    return _GRAY if image.mode == "L" else (_GRAY, _GRAY, _GRAY)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    """Dark values (under 128) made brighter."""
    return image.point([min(255, v + add) if v < 128 else v for v in range(256)] * len(image.getbands()))


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """The highest bits kept; of none of them (which Pillow 12 refuses) black is left."""
    return image.point([value & (256 - (1 << (8 - bits))) for value in range(256)] * len(image.getbands()))


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> RandAugmentFn:
    return lambda image, level, sign, _: enhancer(image).enhance(max(0.1, 1.0 + sign * level * 0.9))


RAND_AUGMENT_OPS: dict[str, RandAugmentFn] = {
    "auto-contrast": lambda picture, *_: ImageOps.autocontrast(picture),
    "equalize": lambda picture, *_: ImageOps.equalize(picture),
    "invert": lambda picture, *_: ImageOps.invert(picture),
    "rotate": lambda picture, level, sign, way: picture.rotate(
        sign * level * 30.0, resample=way, fillcolor=_fill_color(picture)
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
_OPS_IN_ORDER = tuple(RAND_AUGMENT_OPS.values())


def rand_augment(images: Tensor, draws: RandomDraws, magnitude: float, std: float, num_ops: int) -> Tensor:
    """`num` operations on each picture (N, 1 or 3, H, W); floats must lie in 0..1 and are rounded to 256 levels.

    Raises ValueError for another number of channels, or floats outside of 0..1.
    """
    pixels = _to_uint8(images)
    uniforms = torch.stack([draws.uniform(k) for k in range(_DRAWS_PER_OP * num_ops)], 1).tolist()
    outputs = [_augment_image(image, row, magnitude, std) for image, row in zip(pixels, uniforms, strict=True)]
    result = torch.stack(outputs).to(images.device)
    return result if images.dtype == torch.uint8 else result.to(images.dtype) / 255


def _augment_image(pixels: Tensor, uniforms: list[float], magnitude: float, std: float) -> Tensor:
    is_gray = len(pixels) == 1
    image = Image.fromarray((pixels[0] if is_gray else pixels.permute(1, 2, 0)).contiguous().numpy())
    for start in range(0, len(uniforms), _DRAWS_PER_OP):
        op_draw, skip_draw, radius, angle, sign, interpolation_draw = uniforms[start : start + _DRAWS_PER_OP]
        if skip_draw >= APPLY_PROBABILITY:
            continue
        # Box and Muller 1958; 1 - u keeps the logarithm's argument above 0.
        sampled_magnitude = magnitude + std * math.sqrt(-2 * math.log(1 - radius)) * math.cos(2 * math.pi * angle)
        level = max(0.0, min(sampled_magnitude, MAX_MAGNITUDE)) / MAX_MAGNITUDE
        op = _OPS_IN_ORDER[int(op_draw * len(_OPS_IN_ORDER))]
        image = op(image, level, -1.0 if sign >= 0.5 else 1.0, _INTERPOLATIONS[interpolation_draw >= 0.5])
    output = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return (
        output.view(1, image.height, image.width)
        if is_gray
        else output.view(image.height, image.width, 3).permute(2, 0, 1)
    )


def _to_uint8(images: Tensor) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise invalid("pictures of 1 or 3 channels for randaugment", f"{images.shape[1]} channels")
    if images.dtype == torch.uint8:
        return images.cpu()
    low, high = (float(bound) for bound in images.aminmax())
    if low < 0 or high > 1:
        raise invalid("pixels from 0 to 1 for randaugment", f"{low:g} to {high:g}", next_step="hand over uint8 pixels")
    return (images.cpu() * 255).round().to(torch.uint8)
