"""Pictures brought to another size: resized, cut out, or both at once, each picture by its own numbers."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pictures

from reslab.data.rng import Draws
from reslab.spec.errors import invalid

_TRIES = 10


def resize(images: Tensor, _: Draws, size: int, width: int, way: str) -> Tensor:
    """The shorter side to `size`, the other in proportion, rounded down; or `size` x `width`; antialiased."""
    sizes = [size, width] if width else [size]
    resized: Tensor = pictures.resize(images, sizes, InterpolationMode(way), antialias=True)
    return resized


def center_crop(images: Tensor, _: Draws, size: int) -> Tensor:
    """The square of `size` in the middle."""
    height, width = fits(images, size, "center-crop")
    # Where a side is odd the middle is torchvision's, round(difference / 2), ties to even.
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return images[..., top : top + size, left : left + size]


def random_boxes(draws: Draws, height: int, width: int, least: float) -> Tensor:
    """Boxes (top, left, height, width), (N, 4) int64: area from `least` to 1 of the picture, aspect from 3/4 to 4/3.

    Of ten tries the first that fits; where none does, the largest middle box of an allowed aspect (as torchvision).
    """
    area = draws.uniforms(range(0, 4 * _TRIES, 4)) * (1 - least) + least
    aspect = torch.exp((draws.uniforms(range(1, 4 * _TRIES, 4)) * 2 - 1) * math.log(4 / 3))
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


def random_resized_crop(images: Tensor, draws: Draws, size: int, least: float, way: str) -> Tensor:
    """A box of random place, area and aspect, brought to size x size; for each picture by its own weights.

    out = rows @ image @ columns^T with the weights of antialiased interpolation; within one grey level (bicubic: two)
    of `pictures.resized_crop`, which rounds in between.
    """
    top, left, height, width = random_boxes(draws, images.shape[-2], images.shape[-1], least).unbind(1)
    rows = _weights(top, height, images.shape[-2], size, _KERNELS[way])
    columns = _weights(left, width, images.shape[-1], size, _KERNELS[way])
    across = images.float() @ columns[:, None].transpose(2, 3)
    if images.dtype == torch.uint8 and way == "bicubic":
        across = across.round_().clamp_(0, 255)  # as others do between the two directions: what overshoots is cut
    found = rows[:, None] @ across
    return found.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else found.to(images.dtype)


def one_random_resized_crop(image: Tensor, draws: Draws, size: int, least: float, way: str) -> Tensor:
    """`random_resized_crop` of one picture of any size, by torchvision."""
    top, left, height, width = random_box(draws, image.shape[-2], image.shape[-1], least)
    mode = InterpolationMode(way)
    cropped: Tensor = pictures.resized_crop(image, top, left, height, width, [size, size], mode, antialias=True)
    return cropped


def random_box(draws: Draws, height: int, width: int, least: float) -> tuple[int, int, int, int]:
    """`random_boxes` of one picture, the same box: in numpy, whose small operations cost a quarter of torch's.

    Products, quotients and roundings are exact in IEEE arithmetic and so equal in both; exponentials and roots are not
    (torch's root differs now and then in the last bit), and stay torch's.
    """
    drawn = draws.uniforms(range(4 * _TRIES + 2))[0]
    aspect = torch.exp((drawn[1 : 4 * _TRIES : 4] * 2 - 1) * math.log(4 / 3)).numpy()
    numbers = drawn.numpy()
    area = (numbers[0 : 4 * _TRIES : 4] * np.float32(1 - least) + np.float32(least)) * np.float32(height)
    area = area * np.float32(width)
    widths, heights = np.rint(torch.from_numpy(np.stack((area * aspect, area / aspect))).sqrt().numpy())
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    if not fits.any():
        box_height, box_width = min(height, round(width / (3 / 4))), min(width, round(height * (4 / 3)))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
    first = int(fits.argmax())
    box_height, box_width = int(heights[first]), int(widths[first])
    top = int(numbers[4 * _TRIES] * np.float32(height - box_height + 1))
    left = int(numbers[4 * _TRIES + 1] * np.float32(width - box_width + 1))
    return top, left, box_height, box_width


def random_scale_crop(images: Tensor, draws: Draws, size: int, least: int, most: int) -> Tensor:
    """The shorter side brought to a length drawn from `least` .. `most`, then a square of `size` drawn.

    Raises ValueError where `least` is less than `size`, or `most` less than `least`.
    """
    if not size <= least <= most:
        raise invalid(
            "random-scale-crop(SIZE,LEAST,MOST) with SIZE <= LEAST <= MOST",
            f"random-scale-crop({size},{least},{most})",
            nearest="random-scale-crop(224,256,480)",
        )
    sides = (draws.integers(0, most - least + 1) + least).tolist()
    places = torch.stack((draws.uniform(1), draws.uniform(2)), 1).tolist()
    found = []
    for image, side, (down, across) in zip(images, sides, places, strict=True):
        scaled = pictures.resize(image, [side], antialias=True)
        top, left = int(down * (scaled.shape[-2] - size + 1)), int(across * (scaled.shape[-1] - size + 1))
        found.append(scaled[..., top : top + size, left : left + size])
    return torch.stack(found)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min(0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2, as Pillow and torch take it where they smooth."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}


def _weights(start: Tensor, length: Tensor, num_pixels: int, size: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """(N, size, num_pixels): output pixel i of sample n as a mean of the pixels of its box, by a kernel scale wide."""
    scale = (length.float() / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    place = torch.arange(num_pixels, device=start.device)
    near = kernel((place + 0.5 - centre).abs() / scale.clamp_min(1))
    inside = (place >= start[:, None, None]) & (place < (start + length)[:, None, None])
    near = near * inside
    return near / near.sum(2, keepdim=True)


def fits(images: Tensor, size: int, word: str) -> tuple[int, int]:
    """Height and width; raises ValueError where a square of `size` is larger than they are."""
    height, width = images.shape[-2:]
    if size > min(height, width):
        nearest = f"{word}({min(height, width)})"
        raise invalid(
            f"pictures of at least {size}x{size} for {word}({size})",
            size_words(images),
            nearest,
            "or resize or pad before it",
        )
    return height, width


def size_words(images: Tensor) -> str:
    """`pictures of 32x40`."""
    return f"pictures of {images.shape[-2]}x{images.shape[-1]}"
