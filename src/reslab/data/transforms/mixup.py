"""MixUp and CutMix: mix the images of a training batch in pairs, and their labels.

An image's partner is its neighbor in the batch (0 with 1, 2 with 3, ...; the order of a batch is random). So each
process mixes its (even) part as the whole batch would, whatever the number of processes that share it. The mixing
coefficient lambda, one for the batch, is a function of (seed, step).
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.data.rng import hash_key

_MIX_SALT = 0x6D6978  # separates these draws from other functions of (seed, step)


@dataclass(frozen=True)
class MixParams:
    """The weight `lam` of each image of a batch itself, and CutMix's box (top, left, bottom, right)."""

    lam: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class BatchMixer:
    """MixUp and CutMix with their alphas, 0 for neither; of two, each batch uses one, with probability 1/2."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, x: Tensor, y: Tensor, num_classes: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Mix x (N, C, H, W) in place, and return it with soft targets (N, num_classes) float32."""
        params = self.sample_params(seed, step, x.shape[-2], x.shape[-1])
        return mix_images(x, params), mix_targets(y, num_classes, params.lam)

    def sample_params(self, seed: int, step: int, height: int, width: int) -> MixParams:
        """Draw lambda ~ Beta(alpha, alpha) from the Mersenne Twister seeded with hash(seed, step), and CutMix's box.

        CutMix's lambda is corrected to the area of the box after clipping, as in timm.
        """
        rng = random.Random(hash_key(seed, step, _MIX_SALT))
        use_cutmix = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if use_cutmix else self.mixup
        lam = rng.betavariate(alpha, alpha)
        if not use_cutmix:
            return MixParams(lam)
        box = cutmix_box(lam, rng.randrange(height), rng.randrange(width), height, width)
        top, left, bottom, right = box
        return MixParams(1.0 - (bottom - top) * (right - left) / (height * width), box)


def cutmix_box(lam: float, center_y: int, center_x: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) of the box of area (1 - lam) H W around a center, clipped to the image."""
    ratio = (1.0 - lam) ** 0.5
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    top, bottom = center_y - cut_height // 2, center_y + (cut_height + 1) // 2
    left, right = center_x - cut_width // 2, center_x + (cut_width + 1) // 2
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def mix_images(x: Tensor, params: MixParams) -> Tensor:
    """Return lam x + (1 - lam) partner, or x with the partner's pixels inside the box; computed in place."""
    if params.box is None:
        partner = swap_neighbors(x).mul_(1.0 - params.lam)
        return x.mul_(params.lam).add_(partner)
    top, left, bottom, right = params.box
    x[..., top:bottom, left:right] = swap_neighbors(x[..., top:bottom, left:right])
    return x


def mix_targets(y: Tensor, num_classes: int, lam: float) -> Tensor:
    """Return lam t + (1 - lam) t of the partner, (N, num_classes) float32; t is onehot(y) for y (N,) int64, else y."""
    targets = y if y.is_floating_point() else _one_hot(y, num_classes)
    return targets * lam + swap_neighbors(targets) * (1.0 - lam)


def _one_hot(y: Tensor, num_classes: int) -> Tensor:
    return torch.zeros((len(y), num_classes), device=y.device).scatter_(1, y[:, None], 1.0)


def swap_neighbors(values: Tensor) -> Tensor:
    """Return a copy with neighbors swapped: 0 with 1, 2 with 3, ...; the last of an odd number takes the first."""
    num_paired = len(values) // 2 * 2
    swapped = values[:num_paired].unflatten(0, (num_paired // 2, 2)).flip(1).flatten(0, 1)
    return swapped if num_paired == len(values) else torch.cat((swapped, values[:1]))
