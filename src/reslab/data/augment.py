"""A sentence of augmentation made ready: `pad(4) crop(32) flip`, on a whole batch or on one picture at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.data.augment_words import AUGMENT_WORDS, Argument, AugmentWord
from reslab.data.chance import Draws
from reslab.spec.errors import refuse, unknown
from reslab.spec.words import Word, parse_words


@dataclass(frozen=True)
class _Step:
    word: AugmentWord
    arguments: tuple[float | str, ...]


class Augment:
    """The words of a sentence in order; chance only through `keys`, one a sample (`chance.keys`).

    Raises ValueError for an unknown word (with the nearest), or arguments it does not take.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self._steps = tuple(_step(word) for word in parse_words(words))

    def batch(self, images: Tensor, keys: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W'), `keys` (N,) int64 on the same device."""
        for place, step in enumerate(self._steps):
            images = step.word.batch(images, Draws(keys, place), *step.arguments)
        return images

    def one(self, image: Tensor, key: int) -> Tensor:
        """One picture (C, H, W) of any size; what `batch` makes of it under the same key."""
        keys = torch.tensor([key])
        for place, step in enumerate(self._steps):
            draws = Draws(keys, place)
            if step.word.one is not None:
                image = step.word.one(image, draws, *step.arguments)
            else:
                image = step.word.batch(image[None], draws, *step.arguments)[0]
        return image


def _step(word: Word) -> _Step:
    if word.name not in AUGMENT_WORDS:
        raise unknown("augmentation word", str(word), AUGMENT_WORDS, "words such as 'pad(4) crop(32) flip'")
    known = AUGMENT_WORDS[word.name]
    if word.size is not None or word.stride is not None:
        raise refuse(f"arguments in brackets, {known.example}", str(word), nearest=f"{word.name}({word.size})")
    least = sum(argument.default is None for argument in known.arguments)
    if not least <= len(word.args) <= len(known.arguments):
        names = ", ".join(argument.name for argument in known.arguments) or "none"
        raise refuse(f"{word.name} with its arguments ({names})", str(word), nearest=known.example)
    given = zip(known.arguments, (*word.args, *(None,) * len(known.arguments)), strict=False)
    return _Step(known, tuple(_checked(argument, value, word, known) for argument, value in given))


def _checked(argument: Argument, value: float | str | None, word: Word, known: AugmentWord) -> float | str:
    if value is None:
        assert argument.default is not None
        return argument.default
    if argument.choices:
        if value not in argument.choices:
            raise unknown(f"{argument.name} of {word.name}", value, argument.choices)
        return value
    right_kind = isinstance(value, int) or (argument.kind is float and isinstance(value, float))
    if not right_kind or not argument.least <= float(value) <= argument.most:
        bounds = f"from {argument.least:g}" + ("" if argument.most == float("inf") else f" to {argument.most:g}")
        what = "a whole number" if argument.kind is int else "a number"
        raise refuse(f"{argument.name} of {word.name} as {what} {bounds}", str(word), nearest=known.example)
    return float(value) if argument.kind is float else int(value)
