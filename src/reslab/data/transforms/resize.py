"""Pictures brought to another size: resized, cut out, or both at once, each picture by its own numbers."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pictures

from reslab.data.rng import RandomDraws
from reslab.spec.errors import invalid

_NUM_TRIES = 10


def resize(images: Tensor, _: RandomDraws, size: int, width: int, interpolation: str) -> Tensor:
    """The shorter side to `size`, the other in proportion, rounded down; or `size` x `width`; antialiased."""
    target_size = [size, width] if width else [size]
    resized: Tensor = pictures.resize(images, target_size, InterpolationMode(interpolation), antialias=True)
    return resized


def center_crop(images: Tensor, _: RandomDraws, size: int) -> Tensor:
    """The square of `size` in the middle."""
    height, width = check_fits(images, size, "center-crop")
    # Where a side is odd the middle is torchvision's, round(difference / 2), ties to even.
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return images[..., top : top + size, left : left + size]


def random_crop_boxes(draws: RandomDraws, height: int, width: int, min_area: float) -> Tensor:
    """Boxes (top, left, height, width), (N, 4) int64: area from `least` to 1 of the picture, aspect from 3/4 to 4/3.

    Of ten tries the first that fits; where none does, the largest middle box of an allowed aspect (as torchvision).
    """
    area = draws.uniforms(range(0, 4 * _NUM_TRIES, 4)) * (1 - min_area) + min_area
    aspect = torch.exp((draws.uniforms(range(1, 4 * _NUM_TRIES, 4)) * 2 - 1) * math.log(4 / 3))
    widths = (area * height * width * aspect).sqrt().round().long()
    heights = (area * height * width / aspect).sqrt().round().long()
    is_valid = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first_valid = is_valid.to(torch.uint8).argmax(1, keepdim=True)
    box_height, box_width = heights.gather(1, first_valid)[:, 0], widths.gather(1, first_valid)[:, 0]
    any_valid = is_valid.any(1)
    box_height = torch.where(any_valid, box_height, min(height, round(width / (3 / 4))))
    box_width = torch.where(any_valid, box_width, min(width, round(height * (4 / 3))))
    top = (draws.uniform(4 * _NUM_TRIES) * (height - box_height + 1)).long()
    left = (draws.uniform(4 * _NUM_TRIES + 1) * (width - box_width + 1)).long()
    center_top, center_left = (height - box_height) // 2, (width - box_width) // 2
    return torch.stack(
        (torch.where(any_valid, top, center_top), torch.where(any_valid, left, center_left), box_height, box_width), 1
    )


def random_resized_crop(images: Tensor, draws: RandomDraws, size: int, min_area: float, interpolation: str) -> Tensor:
    """A box of random place, area and aspect, brought to size x size; for each picture by its own weights.

    out = rows @ image @ columns^T with the weights of antialiased interpolation; within one grey level (bicubic: two)
    of `pictures.resized_crop`, which rounds in between.
    """
    top, left, height, width = random_crop_boxes(draws, images.shape[-2], images.shape[-1], min_area).unbind(1)
    rows = _interpolation_weights(top, height, images.shape[-2], size, _KERNELS[interpolation])
    columns = _interpolation_weights(left, width, images.shape[-1], size, _KERNELS[interpolation])
    horizontal = images.float() @ columns[:, None].transpose(2, 3)
    if images.dtype == torch.uint8 and interpolation == "bicubic":
        horizontal = horizontal.round_().clamp_(
            0, 255
        )  # as others do between the two directions: what overshoots is cut
    resized = rows[:, None] @ horizontal
    return resized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized.to(images.dtype)


def random_resized_crop_image(
    image: Tensor, draws: RandomDraws, size: int, min_area: float, interpolation: str
) -> Tensor:
    """`random_resized_crop` of one picture of any size, by torchvision."""
    top, left, height, width = random_crop_box(draws, image.shape[-2], image.shape[-1], min_area)
    mode = InterpolationMode(interpolation)
    cropped: Tensor = pictures.resized_crop(image, top, left, height, width, [size, size], mode, antialias=True)
    return cropped


def random_crop_box(draws: RandomDraws, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """`random_boxes` of one picture, the same box: in numpy, whose small operations cost a quarter of torch's.

    Products, quotients and roundings are exact in IEEE arithmetic and so equal in both; exponentials and roots are not
    (torch's root differs now and then in the last bit), and stay torch's.
    """
    draw_tensor = draws.uniforms(range(4 * _NUM_TRIES + 2))[0]
    aspect = torch.exp((draw_tensor[1 : 4 * _NUM_TRIES : 4] * 2 - 1) * math.log(4 / 3)).numpy()
    uniforms = draw_tensor.numpy()
    area = (uniforms[0 : 4 * _NUM_TRIES : 4] * np.float32(1 - min_area) + np.float32(min_area)) * np.float32(height)
    area = area * np.float32(width)
    widths, heights = np.rint(torch.from_numpy(np.stack((area * aspect, area / aspect))).sqrt().numpy())
    is_valid = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    if not is_valid.any():
        box_height, box_width = min(height, round(width / (3 / 4))), min(width, round(height * (4 / 3)))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
    first_valid = int(is_valid.argmax())
    box_height, box_width = int(heights[first_valid]), int(widths[first_valid])
    top = int(uniforms[4 * _NUM_TRIES] * np.float32(height - box_height + 1))
    left = int(uniforms[4 * _NUM_TRIES + 1] * np.float32(width - box_width + 1))
    return top, left, box_height, box_width


def random_scale_crop(images: Tensor, draws: RandomDraws, size: int, min_side: int, max_side: int) -> Tensor:
    """The shorter side brought to a length drawn from `least` .. `most`, then a square of `size` drawn.

    Raises ValueError where `least` is less than `size`, or `most` less than `least`.
    """
    if not size <= min_side <= max_side:
        raise invalid(
            "random-scale-crop(SIZE,LEAST,MOST) with SIZE <= LEAST <= MOST",
            f"random-scale-crop({size},{min_side},{max_side})",
            nearest="random-scale-crop(224,256,480)",
        )
    sides = (draws.integers(0, max_side - min_side + 1) + min_side).tolist()
    offsets = torch.stack((draws.uniform(1), draws.uniform(2)), 1).tolist()
    crops = []
    for image, side, (y_fraction, x_fraction) in zip(images, sides, offsets, strict=True):
        scaled = pictures.resize(image, [side], antialias=True)
        top, left = int(y_fraction * (scaled.shape[-2] - size + 1)), int(x_fraction * (scaled.shape[-1] - size + 1))
        crops.append(scaled[..., top : top + size, left : left + size])
    return torch.stack(crops)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min(0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2, as Pillow and torch take it where they smooth."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}


def _interpolation_weights(
    start: Tensor, length: Tensor, num_pixels: int, size: int, kernel: Callable[[Tensor], Tensor]
) -> Tensor:
    """(N, size, num_pixels): output pixel i of sample n as a mean of the pixels of its box, by a kernel scale wide."""
    scale = (length.float() / size)[:, None, None]
    center = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    position = torch.arange(num_pixels, device=start.device)
    weights = kernel((position + 0.5 - center).abs() / scale.clamp_min(1))
    in_box = (position >= start[:, None, None]) & (position < (start + length)[:, None, None])
    weights = weights * in_box
    return weights / weights.sum(2, keepdim=True)


def check_fits(images: Tensor, size: int, op_name: str) -> tuple[int, int]:
    """Height and width; raises ValueError where a square of `size` is larger than they are."""
    height, width = images.shape[-2:]
    if size > min(height, width):
        suggestion = f"{op_name}({min(height, width)})"
        raise invalid(
            f"pictures of at least {size}x{size} for {op_name}({size})",
            size_text(images),
            suggestion,
            "or resize or pad before it",
        )
    return height, width


def size_text(images: Tensor) -> str:
    """`pictures of 32x40`."""
    return f"pictures of {images.shape[-2]}x{images.shape[-1]}"
