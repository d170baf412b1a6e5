"""Count the pixels of each class in the masks of a dataset: for class weights, and to check the masks."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reslab.data.masks import VOID
from reslab.data.target_datasets import MaskImageDataset


@dataclass(frozen=True, eq=False)
class MaskStatistics:
    """The pixels of each class in N masks: `pixels` (N, C) int64 and `void` (N,) int64; `sizes` are height and width.

    `errors` has the reason by index why a mask cannot be read, whose counts and size are 0.
    """

    pixels: Tensor
    void: Tensor
    sizes: tuple[tuple[int, int], ...]
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def pixels_per_class(self) -> Tensor:
        """The pixels of each class in all masks, (C,) int64."""
        return self.pixels.sum(0)

    @property
    def images_per_class(self) -> Tensor:
        """The number of images that show each class, (C,) int64."""
        return (self.pixels > 0).sum(0)

    @property
    def void_share(self) -> float:
        """The share of void pixels in all masks; 0 without masks."""
        total = int(self.pixels.sum() + self.void.sum())
        return int(self.void.sum()) / total if total else 0.0

    @property
    def all_void(self) -> list[int]:
        """The masks in which every pixel is void."""
        is_void = (self.pixels.sum(1) == 0) & (self.void > 0)
        return is_void.nonzero().flatten().tolist()

    @property
    def without_object(self) -> list[int]:
        """The masks that show class 0, the background, and no other class."""
        is_background = (self.pixels[:, 0] > 0) & (self.pixels[:, 1:].sum(1) == 0)
        return is_background.nonzero().flatten().tolist()


def count_mask_pixels(dataset: MaskImageDataset, num_classes: int) -> MaskStatistics:
    """Read every mask, in threads, and count the pixels of each class and of void."""
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(lambda i: _count_mask(dataset, i), range(len(dataset))))
    counts = torch.tensor([counts for counts, _, _ in rows], dtype=torch.int64).view(-1, 256)
    errors = {i: error for i, (_, _, error) in enumerate(rows) if error}
    return MaskStatistics(counts[:, :num_classes], counts[:, VOID], tuple(size for _, size, _ in rows), errors)


def _count_mask(dataset: MaskImageDataset, i: int) -> tuple[list[int], tuple[int, int], str]:
    try:
        mask = dataset.masks.load(i)
    except ValueError as error:
        return [0] * 256, (0, 0), str(error)
    height, width = mask.shape
    return np.bincount(mask.reshape(-1), minlength=256).tolist(), (height, width), ""
