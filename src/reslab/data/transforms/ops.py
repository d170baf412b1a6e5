"""The transforms of images: pad, crop, flip, resize, random crops, lighting.

Each takes a batch (N, C, H, W), uint8 of 0..255 or float, and keeps the type; two have a variant for one image
(C, H, W). Random numbers come from `RandomDraws` alone: functions of (seed, epoch, sample, index of the operation).
"""

import math
import platform
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reslab.data.rng import RandomDraws
from reslab.spec.errors import invalid

_NUM_TRIES = 10


def pad(images: Tensor, _: RandomDraws, size: int, mode: str) -> Tensor:
    """Pad by `size` pixels on every side: black (zero, before normalization), or a reflection without the edge."""
    height, width = images.shape[-2:]
    if mode == "zero":
        # On a CPU two to three times as fast as F.pad.
        padded = images.new_zeros((*images.shape[:-2], height + 2 * size, width + 2 * size))
        padded[..., size : size + height, size : size + width] = images
        return padded
    if size >= min(height, width):
        required = f"images with sides over {size} for pad({size},reflect)"
        raise invalid(required, size_text(images), nearest=f"pad({min(height, width) - 1},reflect)")
    rows, columns = (_reflected_indices(length, size, images.device) for length in images.shape[-2:])
    return images.index_select(-2, rows).index_select(-1, columns)


def pad_to(images: Tensor, _: RandomDraws, size: int, fill: int) -> Tensor:
    """Pad at the right and the bottom, up to `size` pixels, with `fill` of 0..255; larger images stay."""
    height, width = images.shape[-2:]
    if min(height, width) >= size:
        return images
    value = fill / 255 if images.is_floating_point() else fill
    padded = images.new_full((*images.shape[:-2], max(height, size), max(width, size)), value)
    padded[..., :height, :width] = images
    return padded


def crop(images: Tensor, draws: RandomDraws, size: int) -> Tensor:
    """Crop a square of `size` at a position drawn uniformly, another for each image."""
    height, width = check_fits(images, size, "crop")
    top, left = draws.integers(0, height - size + 1), draws.integers(1, width - size + 1)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # a view: N, C, tops, lefts, size, size
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """Flip left and right with a probability."""
    is_flipped = draws.bernoulli(0, probability)[:, None, None, None]
    return torch.where(is_flipped, images.flip(3), images)


def flip_image(image: Tensor, draws: RandomDraws, probability: float) -> Tensor:
    """`flip` for one image."""
    return image.flip(2) if bool(draws.bernoulli(0, probability)) else image


def alternating_flip(images: Tensor, draws: RandomDraws) -> Tensor:
    """Flip left and right in every second epoch: one half of the images in the even ones, the others in the odd."""
    return torch.where(draws.alternating_bit.bool()[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, draws: RandomDraws, size: int, fill: int) -> Tensor:
    """Fill a square of `size` with `fill` of 0..255; its center is drawn from all pixels, so it may be cut at an edge.

    A square of even size reaches from its center `size / 2` pixels up and left, and one less down and right.
    """
    sides, value = images.shape[-2:], fill / 255 if images.is_floating_point() else fill
    rows, columns = (
        (torch.arange(side, device=images.device) - draws.integers(index, side)[:, None] + size // 2)
        for index, side in enumerate(sides)
    )
    rows, columns = ((offsets >= 0) & (offsets < size) for offsets in (rows, columns))
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], value)


def resize(images: Tensor, _: RandomDraws, size: int, width: int, interpolation: str) -> Tensor:
    """Resize with antialiasing: the shorter side to `size`, the other in proportion, or both to `size` x `width`."""
    height, width = (size, width) if width else resized_size(images.shape[-2], images.shape[-1], size)
    return resize_to(images, height, width, interpolation)


def resized_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width with the shorter side `size` and the other in proportion, rounded down."""
    longer = int(size * max(height, width) / min(height, width))
    return (longer, size) if width <= height else (size, longer)


def resize_to(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Resize (C, H, W) or (N, C, H, W) with antialiasing, to the bit as torchvision does, but without importing it."""
    shape, dtype = images.shape, images.dtype
    if shape[-2:] == (height, width):
        return images
    pixels = images.reshape(-1, *shape[-3:])
    strides = pixels.stride()
    if pixels.is_contiguous(memory_format=torch.channels_last) and len(pixels) == 1 and pixels.numel() != strides[0]:
        # torch forgets the memory format of a single image (pytorch#68430) unless the batch has its own stride.
        pixels = pixels.as_strided(pixels.shape, (pixels.numel(), *strides[1:]))
    is_native = dtype in (torch.float32, torch.float64) or (
        dtype == torch.uint8 and _resizes_uint8(images, interpolation)
    )
    if not is_native:
        pixels = pixels.to(torch.float32)
    pixels = interpolate(pixels, [height, width], mode=interpolation, align_corners=False, antialias=True)
    if not is_native:
        if dtype == torch.uint8:
            pixels = (pixels.clamp_(0, 255) if interpolation == "bicubic" else pixels).round_()
        pixels = pixels.to(dtype)
    return pixels.reshape(*shape[:-2], height, width)


def _resizes_uint8(images: Tensor, interpolation: str) -> bool:
    """Return True where torch resizes uint8 without a detour over float32, on most CPUs."""
    if images.device.type != "cpu":
        return False
    has_kernel = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return interpolation == "bicubic" or has_kernel or platform.machine() in ("aarch64", "arm64")


def center_crop(images: Tensor, _: RandomDraws, size: int) -> Tensor:
    """Crop the square of `size` in the center."""
    height, width = check_fits(images, size, "center-crop")
    # For an odd difference the center is torchvision's: round(difference / 2), ties to even.
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return images[..., top : top + size, left : left + size]


def random_crop_boxes(draws: RandomDraws, height: int, width: int, min_area: float) -> Tensor:
    """Draw boxes (top, left, height, width), (N, 4) int64: area `min_area` to 1 of the image, aspect 3/4 to 4/3.

    The first of ten tries that fits; if none does, the largest centered box of an allowed aspect (as in torchvision).
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


def random_resized_crop(
    images: Tensor, draws: RandomDraws, size: int, min_area: float, interpolation: str, _decoding: str = "full"
) -> Tensor:
    """Crop a box of random position, area and aspect, and resize it to size x size, with weights for each image.

    out = rows @ image @ columns^T with the weights of antialiased interpolation; within one gray level (bicubic: two)
    of `F.resized_crop`, which rounds between the two directions.
    """
    top, left, height, width = random_crop_boxes(draws, images.shape[-2], images.shape[-1], min_area).unbind(1)
    rows = _interpolation_weights(top, height, images.shape[-2], size, _KERNELS[interpolation])
    columns = _interpolation_weights(left, width, images.shape[-1], size, _KERNELS[interpolation])
    horizontal = images.float() @ columns[:, None].transpose(2, 3)
    if images.dtype == torch.uint8 and interpolation == "bicubic":
        # Others round and clip between the two directions, which cuts the overshoot of bicubic weights.
        horizontal = horizontal.round_().clamp_(0, 255)
    resized = rows[:, None] @ horizontal
    return resized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized.to(images.dtype)


def random_resized_crop_image(
    image: Tensor, draws: RandomDraws, size: int, min_area: float, interpolation: str, _decoding: str = "full"
) -> Tensor:
    """`random_resized_crop` for one image of any size, to the bit as torchvision resizes its box."""
    top, left, height, width = random_crop_box(draws, image.shape[-2], image.shape[-1], min_area)
    return resize_to(image[..., top : top + height, left : left + width], size, size, interpolation)


def random_resized_crop_scale(
    draws: RandomDraws, height: int, width: int, size: int, min_area: float, _interpolation: str, decoding: str
) -> int:
    """Return by how much an image may be reduced before it is cropped: 1, 2, 4 or 8.

    It is the largest of these factors after which the crop is still at least size x size, so that only what resizing
    would average is averaged before. From the smaller image the same random numbers draw the same part of the image, up
    to rounding to its pixels.
    """
    if decoding == "full" or min(height, width) < 2 * size:
        return 1
    _, _, box_height, box_width = random_crop_box(draws, height, width, min_area)
    return next((factor for factor in (8, 4, 2) if min(box_height, box_width) >= factor * size), 1)


def random_crop_box(draws: RandomDraws, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Draw the box of `random_crop_boxes` for one image, in numpy, whose small operations cost a quarter of torch's.

    IEEE arithmetic defines products, quotients and rounding exactly, so they are equal in both. Exponentials and roots
    are not (the root sometimes differs in the last bit), so torch computes them here too.
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


def random_resize(images: Tensor, draws: RandomDraws, *options: float) -> Tensor:
    """Resize every image by a factor drawn uniformly. Raises ValueError if they then differ in size."""
    pairs = zip(images, draws.per_sample(), strict=True)
    resized = [random_resize_image(image, image_draws, *options) for image, image_draws in pairs]
    if len({image.shape for image in resized}) > 1:
        required = "images in files, or with masks, for random-resize, after which images differ in size"
        next_step = "crop them at once, as random-scale-crop does"
        raise invalid(required, "images in memory, which are transformed a batch at once", "", next_step)
    return torch.stack(resized)


def random_resize_image(image: Tensor, draws: RandomDraws, *options: float) -> Tensor:
    """Resize one image by a factor drawn uniformly."""
    height, width = random_resize_size(draws, image.shape[-2], image.shape[-1], *options)
    return resize_to(image, height, width, "bilinear")


def random_resize_size(draws: RandomDraws, height: int, width: int, *options: float) -> tuple[int, int]:
    """Draw the height and width of `random-resize`, at least 1 pixel; `options` are its arguments."""
    min_scale, max_scale, side = options
    scale = min_scale + (max_scale - min_scale) * float(draws.uniform(0))
    if side:
        scale *= side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def random_scale_crop(images: Tensor, draws: RandomDraws, size: int, min_side: int, max_side: int) -> Tensor:
    """Resize the shorter side to a length drawn from `min_side` .. `max_side`, then crop a random square of `size`."""
    height, width = images.shape[-2:]
    crops = []
    boxes = scale_crop_boxes(draws, height, width, size=size, min_side=min_side, max_side=max_side)
    for image, (new_height, new_width, top, left) in zip(images, boxes, strict=True):
        scaled = resize_to(image, new_height, new_width, "bilinear")
        crops.append(scaled[..., top : top + size, left : left + size])
    return torch.stack(crops)


def scale_crop_boxes(
    draws: RandomDraws, height: int, width: int, *, size: int, min_side: int, max_side: int
) -> list[tuple[int, int, int, int]]:
    """Draw the new height and width and the top and left of the crop of `random_scale_crop`, for each sample."""
    sides = (draws.integers(0, max_side - min_side + 1) + min_side).tolist()
    offsets = torch.stack((draws.uniform(1), draws.uniform(2)), 1).tolist()
    boxes = []
    for side, (y_fraction, x_fraction) in zip(sides, offsets, strict=True):
        new_height, new_width = resized_size(height, width, side)
        top, left = int(y_fraction * (new_height - size + 1)), int(x_fraction * (new_width - size + 1))
        boxes.append((new_height, new_width, top, left))
    return boxes


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min(0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2, as in the antialiased interpolation of Pillow and torch."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}


def _interpolation_weights(
    start: Tensor, length: Tensor, num_pixels: int, size: int, kernel: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return weights (N, size, num_pixels): output pixel i of image n is a weighted mean of the pixels of its box.

    The kernel is as wide as one output pixel in the box, at least one input pixel (antialiasing).
    """
    scale = (length.float() / size)[:, None, None]
    center = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    position = torch.arange(num_pixels, device=start.device)
    weights = kernel((position + 0.5 - center).abs() / scale.clamp_min(1))
    in_box = (position >= start[:, None, None]) & (position < (start + length)[:, None, None])
    weights = weights * in_box
    return weights / weights.sum(2, keepdim=True)


def check_fits(images: Tensor, size: int, op_name: str) -> tuple[int, int]:
    """Return height and width. Raises ValueError if a square of `size` does not fit."""
    height, width = images.shape[-2:]
    if size > min(height, width):
        required = f"images of at least {size}x{size} for {op_name}({size})"
        raise invalid(required, size_text(images), f"{op_name}({min(height, width)})", "or resize or pad first")
    return height, width


def size_text(images: Tensor) -> str:
    """Return `images of 32x40`."""
    return f"images of {images.shape[-2]}x{images.shape[-1]}"


# Krizhevsky's eigenvectors (columns) and roots of the eigenvalues of the covariance of ImageNet's RGB, of pixels / 255.
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_EIGENVALUES = (0.2175, 0.0188, 0.0045)


def lighting(images: Tensor, draws: RandomDraws, std: float) -> Tensor:
    """Add one color to all pixels of an image: P (a * l), with three draws a ~ N(0, std^2), and P and l of ImageNet.

    Raises ValueError unless images have 3 channels.
    """
    if images.shape[1] != 3:
        raise invalid("images of 3 channels for lighting", f"{images.shape[1]} channels")
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
