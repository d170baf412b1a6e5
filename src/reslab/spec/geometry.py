"""How height and width shrink on the way through a network."""

import math
from collections.abc import Iterable

from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.spec.grammar import Word
from reslab.spec.layout import plan_stages


def pool_stride(word: Word) -> int:
    """The stride of a pool word; a pool without one strides by its size, as torch.nn has it."""
    return word.stride or word.size or 1


def word_stride(word: Word) -> int:
    """By what a word of a stem or head divides height and width."""
    return pool_stride(word) if is_pool(word) else word.stride or 1


def is_pool(word: Word) -> bool:
    """Whether the word pools."""
    return word.name in ("maxpool", "avgpool")


def pools_all(words: Iterable[Word]) -> bool:
    """Whether one of the words pools each map to one number (`avgpool` without a size)."""
    return any(is_pool(word) and word.size is None for word in words)


def total_stride(arch: Arch) -> int:
    """By how much height and width shrink from the input to the last unit."""
    stem = math.prod(word_stride(word) for word in arch.stem_words)
    return stem * math.prod(unit.stride for stage in plan_stages(arch) for unit in stage)


def num_places(arch: Arch, head: Iterable[Word]) -> int:
    """Height times width of the maps that leave the words `head` for an input of the architecture's image size.

    Raises ValueError where nothing is left of them.
    """
    head = tuple(head)
    if pools_all(head):
        return 1
    shrinks = [(word_stride(word), _rounds_up(word)) for word in arch.stem_words]
    shrinks += [(unit.stride, True) for stage in plan_stages(arch) for unit in stage]
    shrinks += [(word_stride(word), _rounds_up(word)) for word in head]
    sides = list(arch.image_size)
    for stride, up in shrinks:
        sides = [-(-side // stride) if up else side // stride for side in sides]
    if min(sides) < 1:
        raise refuse(
            f"images that leave {arch.name} a map", "x".join(map(str, arch.image_size)), "32x32", "set image_size"
        )
    return sides[0] * sides[1]


def _rounds_up(word: Word) -> bool:
    """Odd windows are padded and round up, `maxpool2` has nothing to pad with and rounds down."""
    return not is_pool(word) or (word.size or 1) % 2 == 1
