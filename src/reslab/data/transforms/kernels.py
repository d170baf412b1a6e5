"""Transforms by torchvision's kernels with our own draws: geometric ones, and ones of the values of an image.

A geometric one takes `inpt`, an image (C, H, W) or a tv_tensor that belongs to one of `size` (height, width), and
returns it moved. It is called once for each of them with the same draws, which are functions of the sample: so they
move together. Uncovered pixels are 255, void, in a mask (H, W) of class numbers, and 0 in the masks (N, H, W) of N
objects. The others take one image (C, H, W), uint8 or floats in 0..1. torchvision is imported on the first call.
"""

import math
from typing import Any

import torch
from torch import Tensor

from reslab.data.masks import VOID
from reslab.data.rng import RandomDraws
from reslab.data.transforms import ops
from reslab.spec.errors import invalid

Size = tuple[int, int]


def pad(inpt: Any, _: RandomDraws, size: Size, padding: int, mode: str) -> Any:
    """Pad every side. Raises ValueError for boxes beside a reflection, which has no box."""
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional as F

    if mode == "reflect" and isinstance(inpt, tv_tensors.BoundingBoxes | tv_tensors.KeyPoints):
        raise invalid("pad with zeros for an image with boxes", f"pad({padding},reflect)", f"pad({padding})")
    return F.pad(inpt, [padding], fill=_fill(inpt, 0), padding_mode="constant" if mode == "zero" else mode)


def pad_to(inpt: Any, _: RandomDraws, size: Size, side: int, fill: int) -> Any:
    """Pad at the right and the bottom, up to `side` pixels."""
    from torchvision.transforms.v2 import functional as F

    height, width = size
    padding = [0, 0, max(0, side - width), max(0, side - height)]  # left, top, right, bottom
    return F.pad(inpt, padding, fill=_fill(inpt, fill))


def crop(inpt: Any, draws: RandomDraws, size: Size, side: int) -> Any:
    """Crop a square at a random position; boxes are clipped to it."""
    from torchvision.transforms.v2 import functional as F

    height, width = size
    top, left = draws.integers(0, height - side + 1), draws.integers(1, width - side + 1)
    return F.crop(inpt, int(top), int(left), side, side)


def flip(inpt: Any, draws: RandomDraws, _: Size, probability: float) -> Any:
    """Flip left and right with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.horizontal_flip(inpt) if bool(draws.bernoulli(0, probability)) else inpt


def alternating_flip(inpt: Any, draws: RandomDraws, _: Size) -> Any:
    """Flip left and right in every second epoch."""
    from torchvision.transforms.v2 import functional as F

    return F.horizontal_flip(inpt) if bool(draws.alternating_bit) else inpt


def resize(inpt: Any, _: RandomDraws, size: Size, side: int, *options: Any) -> Any:
    """Resize the shorter side to `side`, or to `side` x width; options are width and interpolation."""
    width, interpolation = options
    target_size = (side, width) if width else ops.resized_size(*size, side)
    return resize_to(inpt, target_size, interpolation)


def resize_to(inpt: Any, size: Size, interpolation: str = "bilinear") -> Any:
    """Resize to height and width, images and boxes by torchvision.

    A pixel of a mask is the one that its center falls on, floor((i + 1/2) H / H'), as in torch's `nearest-exact` and
    Pillow. torchvision takes floor(i H / H'), which shifts a mask by up to half a pixel of the resized image.
    """
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional as F

    if not isinstance(inpt, tv_tensors.Mask):
        return F.resize(inpt, list(size), _mode(interpolation), antialias=True)
    resized = inpt.as_subclass(Tensor)
    for dim, new_length in zip((-2, -1), size, strict=True):
        centers = 2 * torch.arange(new_length, device=inpt.device) + 1
        resized = resized.index_select(dim, centers * resized.shape[dim] // (2 * new_length))
    return tv_tensors.wrap(resized, like=inpt)


def center_crop(inpt: Any, _: RandomDraws, size: Size, side: int) -> Any:
    """Crop the square in the center."""
    from torchvision.transforms.v2 import functional as F

    return F.center_crop(inpt, [side])


def random_resized_crop(inpt: Any, draws: RandomDraws, size: Size, side: int, *options: Any) -> Any:
    """Crop a random box and resize it to a square; options are the least area, interpolation and decoding."""
    from torchvision.transforms.v2 import functional as F

    min_area, interpolation = options[:2]
    top, left, height, width = ops.random_crop_box(draws, *size, min_area)
    return resize_to(F.crop(inpt, top, left, height, width), (side, side), interpolation)


def random_resize(inpt: Any, draws: RandomDraws, size: Size, *options: float) -> Any:
    """Resize by a random factor; options are the least and the greatest one and the side that they refer to."""
    return resize_to(inpt, ops.random_resize_size(draws, *size, *options))


def random_scale_crop(inpt: Any, draws: RandomDraws, size: Size, side: int, *sides: int) -> Any:
    """Resize the shorter side to a random length within `sides`, then crop a square at a random position."""
    from torchvision.transforms.v2 import functional as F

    box = ops.scale_crop_boxes(draws, *size, size=side, min_side=sides[0], max_side=sides[1])[0]
    height, width, top, left = box
    return F.crop(resize_to(inpt, (height, width)), top, left, side, side)


def vertical_flip(inpt: Any, draws: RandomDraws, _: Size, probability: float) -> Any:
    """Flip top and bottom with a probability."""
    if not bool(draws.bernoulli(0, probability)):
        return inpt
    if type(inpt) is Tensor:
        return inpt.flip(-2)
    from torchvision.transforms.v2 import functional as F

    return F.vertical_flip(inpt)


def rotate(inpt: Any, draws: RandomDraws, _: Size, degrees: float, *options: Any) -> Any:
    """Rotate by an angle of -degrees to degrees; options are interpolation and fill."""
    from torchvision.transforms.v2 import functional as F

    interpolation, fill = options
    angle = symmetric(float(draws.uniform(0)), degrees)
    return F.rotate(inpt, angle, _mode(interpolation), fill=_fill(inpt, fill))


def affine(inpt: Any, draws: RandomDraws, size: Size, degrees: float, *options: Any) -> Any:
    """Rotate, shift, scale and shear about the center, with the parameters of `affine_params`."""
    from torchvision.transforms.v2 import functional as F

    *ranges, interpolation, fill = options
    params = affine_params(draws, size, (degrees, *ranges))
    return F.affine(inpt, **params, interpolation=_mode(interpolation), fill=_fill(inpt, fill))


def affine_params(draws: RandomDraws, size: Size, ranges: tuple[float, ...]) -> dict[str, Any]:
    """Draw angle, shift in whole pixels, scale and shear from (degrees, translate, min_scale, max_scale, shear)."""
    degrees, translate, min_scale, max_scale, shear = ranges
    u = draws.uniforms(range(5))[0].tolist()
    height, width = size
    return {
        "angle": symmetric(u[0], degrees),
        "translate": [round(symmetric(u[1], translate * width)), round(symmetric(u[2], translate * height))],
        "scale": min_scale + (max_scale - min_scale) * u[3],
        "shear": [symmetric(u[4], shear), 0.0],
    }


def perspective(inpt: Any, draws: RandomDraws, size: Size, distortion: float, *options: Any) -> Any:
    """Move the corners inwards with a probability; options are the probability, interpolation and fill."""
    from torchvision.transforms.v2 import functional as F

    probability, interpolation, fill = options
    if not bool(draws.bernoulli(0, probability)):
        return inpt
    start, end = perspective_corners(draws, size, distortion)
    return F.perspective(inpt, start, end, interpolation=_mode(interpolation), fill=_fill(inpt, fill))


def perspective_corners(draws: RandomDraws, size: Size, distortion: float) -> tuple[list[list[int]], list[list[int]]]:
    """Draw where the corners (x, y) go: each up to `distortion` x half a side inwards, in whole pixels."""
    height, width = size
    u = draws.uniforms(range(1, 9))[0].tolist()
    dx = [int(value * (int(distortion * (width // 2)) + 1)) for value in u[:4]]
    dy = [int(value * (int(distortion * (height // 2)) + 1)) for value in u[4:]]
    right, bottom = width - 1, height - 1
    start = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
    end = [[dx[0], dy[0]], [right - dx[1], dy[1]], [right - dx[2], bottom - dy[2]], [dx[3], bottom - dy[3]]]
    return start, end


def elastic(inpt: Any, draws: RandomDraws, size: Size, alpha: float, *options: Any) -> Any:
    """Move every pixel by a smooth random field; options are sigma, interpolation and fill."""
    from torchvision.transforms.v2 import functional as F

    sigma, interpolation, fill = options
    displacement = elastic_displacement(draws, size, alpha, sigma)
    return F.elastic(inpt, displacement.to(inpt.device), _mode(interpolation), fill=_fill(inpt, fill))


def elastic_displacement(draws: RandomDraws, size: Size, alpha: float, sigma: float) -> Tensor:
    """Draw a field (1, H, W, 2), uniform in -1..1, smoothed by a Gaussian, times alpha / width and alpha / height."""
    from torchvision.transforms.v2 import functional as F

    # One seed and a generator of its own: a hash for each of 2 H W numbers would cost far more than the transform.
    generator = torch.Generator().manual_seed(int(draws.bits(0)) & (1 << 63) - 1)
    height, width = size
    noise = torch.rand(2, 1, height, width, generator=generator) * 2 - 1
    # The kernel ends after four deviations, and may not reach beyond the reflection of the field.
    rows, columns = (min(2 * math.ceil(4 * sigma), 2 * side - 2) + 1 for side in size)
    smooth = F.gaussian_blur(F.gaussian_blur(noise, [columns, 1], [sigma, sigma]), [1, rows], [sigma, sigma])
    scale = torch.tensor([alpha / width, alpha / height])
    return smooth[:, 0].permute(1, 2, 0)[None] * scale


def symmetric(uniform: float, bound: float) -> float:
    """Return a number of -bound..bound from one of 0..1."""
    return (2 * uniform - 1) * bound


def _mode(interpolation: str) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(interpolation)


def _fill(inpt: Any, fill: int) -> float:
    """Return the value of uncovered pixels: void or 0 in masks, a fraction of 1 in images of floats."""
    from torchvision import tv_tensors

    if isinstance(inpt, tv_tensors.Mask):
        return VOID if inpt.ndim == 2 and inpt.dtype != torch.bool else 0
    return fill / 255 if inpt.is_floating_point() else fill


def grayscale(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Replace the color by its luminance in all channels, with a probability."""
    from torchvision.transforms.v2 import functional as F

    if len(image) == 1 or not bool(draws.bernoulli(0, probability)):
        return image
    return F.rgb_to_grayscale(image, num_output_channels=len(image))


def gaussian_blur(image: Tensor, draws: RandomDraws, kernel_size: int, *options: float) -> Tensor:
    """Blur with a Gaussian of random width; options are the least and greatest sigma and the probability.

    Raises ValueError if the kernel reaches beyond the reflection of the image at its edge.
    """
    from torchvision.transforms.v2 import functional as F

    shortest = min(image.shape[-2:])
    if kernel_size // 2 >= shortest:
        got = f"gaussian-blur({kernel_size})"
        raise invalid(
            f"a kernel below twice the side of {ops.size_text(image)}", got, f"gaussian-blur({2 * shortest - 1})"
        )

    min_sigma, max_sigma, probability = options
    if not bool(draws.bernoulli(0, probability)):
        return image
    sigma = min_sigma + (max_sigma - min_sigma) * float(draws.uniform(1))
    return F.gaussian_blur(image, [kernel_size, kernel_size], [sigma, sigma])


def sharpness(image: Tensor, draws: RandomDraws, factor: float, probability: float) -> Tensor:
    """Sharpen or smooth, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.adjust_sharpness(image, factor) if bool(draws.bernoulli(0, probability)) else image


def solarize(image: Tensor, draws: RandomDraws, threshold: int, probability: float) -> Tensor:
    """Invert the values from a threshold (of 0..255) on, with a probability."""
    from torchvision.transforms.v2 import functional as F

    if not bool(draws.bernoulli(0, probability)):
        return image
    return F.solarize(image, threshold / 255 if image.is_floating_point() else threshold)


def posterize(image: Tensor, draws: RandomDraws, bits: int, probability: float) -> Tensor:
    """Keep the highest bits of every value, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.posterize(image, bits) if bool(draws.bernoulli(0, probability)) else image


def autocontrast(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Stretch the values of each channel to the full range, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.autocontrast(image) if bool(draws.bernoulli(0, probability)) else image


def equalize(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Make the values of each channel equally frequent, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.equalize(image) if bool(draws.bernoulli(0, probability)) else image


def invert(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Replace every value by the greatest one minus it, with a probability."""
    from torchvision.transforms.v2 import functional as F

    return F.invert(image) if bool(draws.bernoulli(0, probability)) else image
