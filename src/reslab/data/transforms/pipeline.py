"""A sentence of augmentation made ready: `pad(4) crop(32) flip`, on a whole batch or on one picture at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reslab.data.rng import Draws
from reslab.data.transforms.arguments import read_arguments
from reslab.data.transforms.mixup import MIXING_WORDS, Mixing, read_mixing
from reslab.data.transforms.ops import AUGMENT_WORDS, AugmentWord
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops


@dataclass(frozen=True)
class _Step:
    word: AugmentWord
    arguments: tuple[float | str, ...]


class Augment:
    """The words of a sentence in order; chance only through `keys`, one a sample (`chance.keys`).

    Raises ValueError for an unknown word (with the nearest), arguments it does not take, or a word that mixes pictures
    with their labels (`mixup`, `cutmix`), which only a training batch has: see `split_sentence`.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self._steps = tuple(_step(word) for word in parse_ops(words))

    def batch(self, images: Tensor, keys: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W'), `keys` (N,) int64 on the same device."""
        for place, step in enumerate(self._steps):
            images = step.word.batch(images, Draws(keys, place), *step.arguments)
        return images

    def one(self, image: Tensor, key: int) -> Tensor:
        """One picture (C, H, W) of any size; what `batch` makes of it under the same key."""
        return self.each(torch.tensor([key]))[0](image)

    def each(self, keys: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """For every key what `one` does under it, to pictures that come one after another; the draws are shared."""
        drawn = [Draws(keys, place).each() for place in range(len(self._steps))]
        return [partial(self._one, draws) for draws in zip(*drawn, strict=True)] if drawn else [_as_it_is] * len(keys)

    def _one(self, drawn: Sequence[Draws], image: Tensor) -> Tensor:
        for step, draws in zip(self._steps, drawn, strict=True):
            if step.word.one is not None:
                image = step.word.one(image, draws, *step.arguments)
            else:
                image = step.word.batch(image[None], draws, *step.arguments)[0]
        return image


def _as_it_is(image: Tensor) -> Tensor:
    return image


def split_sentence(sentence: str) -> tuple[Augment, Mixing | None]:
    """What is done to each picture, and how pictures are then mixed: `... flip mixup(0.2) cutmix(1)`.

    Raises ValueError as `Augment` does, and where a word for one picture follows one that mixes.
    """
    words = parse_ops(sentence)
    mixing = [word for word in words if word.name in MIXING_WORDS]
    single = [word for word in words if word.name not in MIXING_WORDS]
    if mixing and list(words) != single + mixing:
        right = " ".join(str(word) for word in single + mixing)
        raise invalid("the words that mix pictures at the end of the sentence", sentence, nearest=right)
    return Augment(" ".join(str(word) for word in single)), read_mixing(mixing) if mixing else None


def _step(word: Op) -> _Step:
    if word.name in MIXING_WORDS:
        raise invalid(
            "words for one picture here", f"{word}, which mixes the pictures of a training batch with their labels"
        )
    if word.name not in AUGMENT_WORDS:
        known = (*AUGMENT_WORDS, *MIXING_WORDS)
        raise unknown_name("augmentation word", str(word), known, "words such as 'pad(4) crop(32) flip'")
    found = AUGMENT_WORDS[word.name]
    return _Step(found, read_arguments(word, found.arguments, found.example))
