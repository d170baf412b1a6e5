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

from reslab.data.rng import key
from reslab.data.transforms.arguments import Argument, read_arguments
from reslab.spec.errors import invalid
from reslab.spec.grammar import Op

_MIXING = 0x6D6978  # keeps these draws apart from other functions of (seed, step)
_ALPHA = Argument("alpha", float, 1e-3)


@dataclass(frozen=True)
class MixingWord:
    """A word that mixes: an example, its source, its arguments."""

    example: str
    source: str
    arguments: tuple[Argument, ...] = (_ALPHA,)


MIXING_WORDS: dict[str, MixingWord] = {
    "mixup": MixingWord("mixup(0.2)", "Zhang et al. 2017, arXiv:1710.09412, Eq. 1"),
    "cutmix": MixingWord("cutmix(1)", "Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2; lambda corrected as timm"),
}


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed: the share `lam` kept of each picture, and CutMix's box (top, left, bottom, right)."""

    lam: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Mixing:
    """The mixing words of a sentence, with their alphas; of two one is chosen a batch, each with probability 1/2."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, x: Tensor, y: Tensor, num_classes: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) float and y (N,) int64 to the mixed x, in place, and targets (N, num_classes) float32."""
        how = self.draw(seed, step, x.shape[-2], x.shape[-1])
        return mixed(x, how), mixed_targets(y, num_classes, how.lam)

    def draw(self, seed: int, step: int, height: int, width: int) -> Mix:
        """lambda ~ Beta(alpha, alpha), by the Mersenne Twister started from hash(seed, step), and the box it gives."""
        chance = random.Random(key(seed, step, _MIXING))
        cut = chance.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cut else self.mixup
        lam = chance.betavariate(alpha, alpha)
        if not cut:
            return Mix(lam)
        box = cut_box(lam, chance.randrange(height), chance.randrange(width), height, width)
        top, left, bottom, right = box
        return Mix(1.0 - (bottom - top) * (right - left) / (height * width), box)


def read_mixing(words: Sequence[Op]) -> Mixing:
    """`mixup(0.2) cutmix(1)` made ready; raises ValueError where a word comes twice or its alpha is not above 0."""
    alphas: dict[str, float] = {}
    for word in words:
        if word.name in alphas:
            raise invalid(f"{word.name} once in a sentence", " ".join(map(str, words)), nearest=str(word))
        known = MIXING_WORDS[word.name]
        (alpha,) = read_arguments(word, known.arguments, known.example)
        alphas[word.name] = float(alpha)
    return Mixing(**alphas)


def cut_box(lam: float, middle_y: int, middle_x: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the box of area (1 - lam) H W around a middle, clipped to the picture."""
    ratio = (1.0 - lam) ** 0.5
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    top, bottom = middle_y - cut_height // 2, middle_y + (cut_height + 1) // 2
    left, right = middle_x - cut_width // 2, middle_x + (cut_width + 1) // 2
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def mixed(x: Tensor, how: Mix) -> Tensor:
    """lam x + (1 - lam) partner, or the partner's pixels inside the box; in place."""
    if how.box is None:
        other = partners(x).mul_(1.0 - how.lam)
        return x.mul_(how.lam).add_(other)
    top, left, bottom, right = how.box
    x[..., top:bottom, left:right] = partners(x[..., top:bottom, left:right])
    return x


def mixed_targets(y: Tensor, num_classes: int, lam: float) -> Tensor:
    """lam onehot(y) + (1 - lam) onehot(partner's y), (N, num_classes) float32."""
    own = torch.zeros((len(y), num_classes), device=y.device).scatter_(1, y[:, None], 1.0)
    return own * lam + partners(own) * (1.0 - lam)


def partners(values: Tensor) -> Tensor:
    """Each entry's neighbour, a copy: 0 with 1, 2 with 3, ...; of an odd number the last one's is the first."""
    even = len(values) // 2 * 2
    swapped = values[:even].unflatten(0, (even // 2, 2)).flip(1).flatten(0, 1)
    return swapped if even == len(values) else torch.cat((swapped, values[:1]))
