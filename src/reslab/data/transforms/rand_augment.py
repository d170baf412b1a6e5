"""RandAugment in timm's "increasing" form, in which the strength of every operation grows with its magnitude.

`num_ops` of 15 operations are drawn, one after the other; each is applied with probability 1/2, at a magnitude drawn
from N(magnitude, std) and clipped to 0..10 (timm's `rand-m9-mstd0.5-inc1`; Cubuk et al. 2019, arXiv:1909.13719; used
by Wightman, Touvron, Jegou 2021, arXiv:2110.00476, Table 2). What a rotation or translation uncovers is gray, 128.
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
"""(image, level of 0..1, sign, interpolation) -> transformed image."""


def _affine(image: Image.Image, coefficients: tuple[float, ...], interpolation: Image.Resampling) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=interpolation, fillcolor=_fill_color(image)
    )


def _fill_color(image: Image.Image) -> int | tuple[int, int, int]:
    return _GRAY if image.mode == "L" else (_GRAY, _GRAY, _GRAY)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    """Brighten dark values (below 128)."""
    return image.point([min(255, v + add) if v < 128 else v for v in range(256)] * len(image.getbands()))


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the highest bits; 0 of them, which Pillow 12 rejects, leave black."""
    return image.point([value & (256 - (1 << (8 - bits))) for value in range(256)] * len(image.getbands()))


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> RandAugmentFn:
    return lambda image, level, sign, _: enhancer(image).enhance(max(0.1, 1.0 + sign * level * 0.9))


RAND_AUGMENT_OPS: dict[str, RandAugmentFn] = {
    "auto-contrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": lambda image, level, sign, resample: image.rotate(
        sign * level * 30.0, resample=resample, fillcolor=_fill_color(image)
    ),
    "posterize": lambda image, level, *_: _posterize(image, 4 - int(level * 4)),
    "solarize": lambda image, level, *_: ImageOps.solarize(image, 256 - min(256, int(level * 256))),
    "solarize-add": lambda image, level, *_: _solarize_add(image, min(128, int(level * 110))),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear-x": lambda image, level, sign, resample: _affine(image, (1, sign * level * 0.3, 0, 0, 1, 0), resample),
    "shear-y": lambda image, level, sign, resample: _affine(image, (1, 0, 0, sign * level * 0.3, 1, 0), resample),
    "translate-x": lambda image, level, sign, resample: _affine(
        image, (1, 0, sign * level * 0.45 * image.size[0], 0, 1, 0), resample
    ),
    "translate-y": lambda image, level, sign, resample: _affine(
        image, (1, 0, 0, 0, 1, sign * level * 0.45 * image.size[1]), resample
    ),
}
_OPS_IN_ORDER = tuple(RAND_AUGMENT_OPS.values())


def rand_augment(images: Tensor, draws: RandomDraws, magnitude: float, std: float, num_ops: int) -> Tensor:
    """Apply `num_ops` operations to each image (N, 1 or 3, H, W); floats in 0..1 are rounded to 256 levels.

    Raises ValueError for another number of channels, or floats outside 0..1.
    """
    pixels = _to_uint8(images)
    uniforms = draws.uniforms(range(_DRAWS_PER_OP * num_ops)).tolist()
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
        raise invalid("images of 1 or 3 channels for randaugment", f"{images.shape[1]} channels")
    if images.dtype == torch.uint8:
        return images.cpu()
    low, high = (float(bound) for bound in images.aminmax())
    if low < 0 or high > 1:
        raise invalid("pixels from 0 to 1 for randaugment", f"{low:g} to {high:g}", next_step="pass uint8 pixels")
    return (images.cpu() * 255).round().to(torch.uint8)
