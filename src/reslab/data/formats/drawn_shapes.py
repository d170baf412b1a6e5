"""Drawn shapes: 64x64 color images of disks, squares and triangles with their boxes, which need no download.

Image i of a split is a function of (split, i): all its random numbers are hashes (`reslab.data.rng`).
"""

from pathlib import Path

import torch
from torch import Tensor

from reslab.data.box_datasets import BoxImageDataset
from reslab.data.boxes import ObjectRow, make_box_table
from reslab.data.dataset_info import DatasetInfo, ReadResult
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.rng import RandomDraws, hash_keys

SHAPES = ("disk", "square", "triangle")
_SIDE = 64
_MAX_OBJECTS = 3
_SIDES = (12, 28)  # the range of the even sides of a box
_SPLITS = {"train": (0, 400), "test": (1, 100)}  # seed and number of images
_DRAWS_PER_OBJECT = 7


def read_drawn_shapes(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Draw the images: 400 training and 100 test images with one to three shapes each; later ones cover others."""
    return ReadResult({split: _draw_images(num, seed) for split, (seed, num) in _SPLITS.items()}, "drawn by reslab")


def _draw_images(num_images: int, seed: int) -> BoxImageDataset:
    draws = RandomDraws(hash_keys(seed, 0, torch.arange(num_images)))
    num_numbers = 1 + _MAX_OBJECTS * _DRAWS_PER_OBJECT
    numbers = draws.uniforms(range(num_numbers))
    noise = draws.uniforms(range(num_numbers, num_numbers + 3 * _SIDE**2)).reshape(-1, 3, _SIDE, _SIDE)
    pixels = 40 + 60 * noise
    rows: list[list[ObjectRow]] = []
    for image, values in zip(pixels, numbers, strict=True):
        count = 1 + int(values[0] * _MAX_OBJECTS)
        objects = values[1:].reshape(_MAX_OBJECTS, _DRAWS_PER_OBJECT)[:count]
        rows.append([_draw_object(image, one) for one in objects])
    images = TensorImageDataset(pixels.round().to(torch.uint8), torch.zeros(num_images, dtype=torch.int64))
    return BoxImageDataset(images, make_box_table(range(num_images), [(_SIDE, _SIDE)] * num_images, rows))


def _draw_object(image: Tensor, numbers: Tensor) -> ObjectRow:
    """Draw a shape into an image (3, H, W); return its box and label."""
    label, size, x_share, y_share, *color = numbers.tolist()
    side = 2 * int((_SIDES[0] + size * (_SIDES[1] - _SIDES[0])) / 2)
    x, y = int(x_share * (_SIDE - side)), int(y_share * (_SIDE - side))
    kind = int(label * len(SHAPES))
    part = image[:, y : y + side, x : x + side]
    part[:, _shape_mask(SHAPES[kind], side)] = 130 + 120 * torch.tensor(color)[:, None]
    return ObjectRow((x, y, x + side, y + side), kind + 1)


def _shape_mask(shape: str, side: int) -> Tensor:
    """Return where a shape is in its box (side, side), which it touches at all four sides."""
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    masks = {
        "disk": axis[:, None] ** 2 + axis**2 <= 1,
        "square": torch.ones(side, side, dtype=torch.bool),
        "triangle": axis.abs() <= (torch.arange(1.001, side + 1) / side)[:, None],  # beyond rounding
    }
    return masks[shape]
