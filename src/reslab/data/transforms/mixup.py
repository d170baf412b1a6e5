"""Pictures of a batch mixed two by two, with their labels: MixUp and CutMix.

Partners are neighbours in the batch (0 with 1, 2 with 3, ...; its order is random), so that a part of a batch of even
length is mixed as it would be within the whole, whatever number of processes shares it. One lambda for the batch is a
function of (seed, step).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.data.rng import hash_key
from reslab.data.transforms.arguments import TransformArg, parse_transform_args
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op

_MIX_SALT = 0x6D6978  # keeps these draws apart from other functions of (seed, step)
_ALPHA_ARG = TransformArg("alpha", float, 1e-3)


@dataclass(frozen=True)
class BatchMixOp:
    """A word that mixes: an example, its source, its arguments."""

    example: str
    reference: str
    args: tuple[TransformArg, ...] = (_ALPHA_ARG,)


BATCH_MIX_OPS: dict[str, BatchMixOp] = {
    "mixup": BatchMixOp("mixup(0.2)", "Zhang et al. 2017, arXiv:1710.09412, Eq. 1"),
    "cutmix": BatchMixOp("cutmix(1)", "Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2; lambda corrected as timm"),
}


@dataclass(frozen=True)
class MixParams:
    """How one batch is mixed: the share `lam` kept of each picture, and CutMix's box (top, left, bottom, right)."""

    lam: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class BatchMixer:
    """The mixing words of a sentence, with their alphas; of two one is chosen a batch, each with probability 1/2."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, x: Tensor, y: Tensor, num_classes: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) float and y (N,) int64 to the mixed x, in place, and targets (N, num_classes) float32."""
        params = self.sample_params(seed, step, x.shape[-2], x.shape[-1])
        return mix_images(x, params), mix_targets(y, num_classes, params.lam)

    def sample_params(self, seed: int, step: int, height: int, width: int) -> MixParams:
        """lambda ~ Beta(alpha, alpha), by the Mersenne Twister started from hash(seed, step), and the box it gives."""
        rng = random.Random(hash_key(seed, step, _MIX_SALT))
        use_cutmix = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if use_cutmix else self.mixup
        lam = rng.betavariate(alpha, alpha)
        if not use_cutmix:
            return MixParams(lam)
        box = cutmix_box(lam, rng.randrange(height), rng.randrange(width), height, width)
        top, left, bottom, right = box
        return MixParams(1.0 - (bottom - top) * (right - left) / (height * width), box)


def parse_batch_mixer(ops: Sequence[Op]) -> BatchMixer:
    """`mixup(0.2) cutmix(1)` made ready; raises ValueError where a word comes twice or its alpha is not above 0."""
    alphas: dict[str, float] = {}
    for op in ops:
        if op.name in alphas:
            raise invalid(f"{op.name} once in a sentence", " ".join(map(str, ops)), nearest=str(op))
        mix_op = BATCH_MIX_OPS[op.name]
        (alpha,) = parse_transform_args(op, mix_op.args, mix_op.example)
        alphas[op.name] = float(alpha)
    return BatchMixer(**alphas)


def cutmix_box(lam: float, center_y: int, center_x: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the box of area (1 - lam) H W around a middle, clipped to the picture."""
    ratio = (1.0 - lam) ** 0.5
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    top, bottom = center_y - cut_height // 2, center_y + (cut_height + 1) // 2
    left, right = center_x - cut_width // 2, center_x + (cut_width + 1) // 2
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def mix_images(x: Tensor, params: MixParams) -> Tensor:
    """lam x + (1 - lam) partner, or the partner's pixels inside the box; in place."""
    if params.box is None:
        partner = swap_neighbors(x).mul_(1.0 - params.lam)
        return x.mul_(params.lam).add_(partner)
    top, left, bottom, right = params.box
    x[..., top:bottom, left:right] = swap_neighbors(x[..., top:bottom, left:right])
    return x


def mix_targets(y: Tensor, num_classes: int, lam: float) -> Tensor:
    """lam onehot(y) + (1 - lam) onehot(partner's y), (N, num_classes) float32."""
    one_hot = torch.zeros((len(y), num_classes), device=y.device).scatter_(1, y[:, None], 1.0)
    return one_hot * lam + swap_neighbors(one_hot) * (1.0 - lam)


def swap_neighbors(values: Tensor) -> Tensor:
    """Each entry's neighbour, a copy: 0 with 1, 2 with 3, ...; of an odd number the last one's is the first."""
    num_paired = len(values) // 2 * 2
    swapped = values[:num_paired].unflatten(0, (num_paired // 2, 2)).flip(1).flatten(0, 1)
    return swapped if num_paired == len(values) else torch.cat((swapped, values[:1]))
