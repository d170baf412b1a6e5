"""Units deleted and permuted at test time: how much a network depends on each, and on their order."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import nn

from reslab.analysis.inputs import Examples, Score, score
from reslab.analysis.lesion_paths import PathLength, path_lengths
from reslab.analysis.subject import Subject
from reslab.analysis.surgery import Slot, reordered, shapes_of, slots_of, switched_off, why_not_deleted
from reslab.nn.network import Network
from reslab.spec.errors import refuse

_MOST_COUNTS = 10
_ENOUGH = 20
_UNKNOWN = (0, 0, 1)


@dataclass(frozen=True)
class LesionOptions:
    """`split`: judge on a whole split in place of the subject's pictures. `draws`: random choices a number of units
    deleted, or pairs swapped (0: leave these out). `path_draws`: sampled paths a length, on `path_images` pictures."""

    split: str = ""
    draws: int = 5
    path_draws: int = 8
    path_images: int = 16
    seed: int = 0


_DEFAULT = LesionOptions()


@dataclass(frozen=True)
class Deleted:
    """One unit taken out: error (a fraction) and loss without it; None, with the reason, where it is not offered."""

    unit: str
    error: float | None
    loss: float | None
    reason: str = ""


@dataclass(frozen=True)
class SeveralDeleted:
    """Errors with `num_deleted` units taken out, one for each random choice of them."""

    num_deleted: int
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Permuted:
    """The error with `num_swaps` random pairs of equal shapes swapped; `tau` is Kendall's, 1 for an order unchanged."""

    num_swaps: int
    tau: float
    error: float


@dataclass(frozen=True)
class Lesion:
    """What deleting and permuting did; `error` and `loss` are of the whole network, `chance` the error of guessing."""

    subject: str
    step: int | None
    kind: str
    error: float
    loss: float
    chance: float
    num_images: int
    split: str
    units: tuple[Deleted, ...]
    several: tuple[SeveralDeleted, ...]
    permuted: tuple[Permuted, ...]
    paths: tuple[PathLength, ...]
    notes: tuple[str, ...] = ()


def lesion(subject: Subject, options: LesionOptions = _DEFAULT) -> Lesion:
    """The error without each unit, without several at random, with units permuted; paths and their gradients.

    Veit et al. 2016, arXiv:1605.06431, Secs. 4 and 5. A deleted unit's branch is zero; a plain unit becomes the
    identity where its shapes agree. Every network is put back as it was.
    Raises ValueError where there is no unit, and for a number below zero.
    """
    if min(options.draws, options.path_draws) < 0 or options.path_images < 1:
        raise refuse("draws of 0 or more, on 1 picture or more", options, nearest=str(_DEFAULT))
    examples, slots = Examples(subject, options.split), slots_of(subject.model)
    whole = score(subject.model, examples)
    offered = [slot for slot in slots if not why_not_deleted(slot.unit)]
    draw = random.Random(options.seed)
    paths, why = path_lengths(subject, options.path_draws, options.path_images, options.seed)
    permuted = _permuted(subject.model, slots, examples, options.draws, draw)
    notes = (why, "" if permuted or not options.draws else "no two units can stand in each other's place")
    return Lesion(
        subject=subject.name,
        step=subject.step,
        kind="plain" if _is_plain(subject.model) else "residual",
        error=whole.error,
        loss=whole.loss,
        chance=1 - 1 / max(2, len(subject.classes) or _num_outputs(subject)),
        num_images=whole.num_images,
        split=options.split,
        units=tuple(_without_each(subject.model, slots, examples)),
        several=tuple(_without_several(subject.model, offered, examples, options.draws, draw)),
        permuted=tuple(permuted),
        paths=paths,
        notes=tuple(note for note in notes if note),
    )


def _is_plain(model: nn.Module) -> bool:
    return isinstance(model, Network) and all(unit.mix is None for _, unit in model.units())


def _num_outputs(subject: Subject) -> int:
    linear = [module for module in subject.model.modules() if isinstance(module, nn.Linear)]
    return linear[-1].out_features if linear else int(subject.labels.max()) + 1


def score_without(model: nn.Module, units: Sequence[str], examples: Examples) -> Score:
    """Error and loss with the units' branches zero."""
    with switched_off(model, units):
        return score(model, examples)


def _without_each(model: nn.Module, slots: Sequence[Slot], examples: Examples) -> list[Deleted]:
    found = []
    for slot in slots:
        reason = why_not_deleted(slot.unit)
        if reason:
            found.append(Deleted(slot.name, None, None, reason))
        else:
            judged = score_without(model, [slot.name], examples)
            found.append(Deleted(slot.name, judged.error, judged.loss))
    return found


def _without_several(
    model: nn.Module, slots: Sequence[Slot], examples: Examples, draws: int, draw: random.Random
) -> list[SeveralDeleted]:
    names, found = [slot.name for slot in slots], []
    for number in spread(len(names)) if draws else ():
        chosen = _choices(names, number, draws, draw)
        found.append(SeveralDeleted(number, tuple(score_without(model, units, examples).error for units in chosen)))
    return found


def _choices(names: Sequence[str], number: int, draws: int, draw: random.Random) -> list[Sequence[str]]:
    """`draws` sets of `number` names; every set there is where there are no more than that."""
    every: list[Sequence[str]] = []
    if number in (1, len(names) - 1, len(names)):
        every = list(combinations(names, number))
    return every if every and len(every) <= draws else [draw.sample(names, number) for _ in range(draws)]


def spread(most: int, at_most: int = _MOST_COUNTS) -> list[int]:
    """Whole numbers from 1 to `most`, at most `at_most` of them, closer together where they are small."""
    if most <= at_most:
        return list(range(1, most + 1))
    return sorted({round(1 + (most - 1) * (i / (at_most - 1)) ** 1.5) for i in range(at_most)})


def _permuted(
    model: nn.Module, slots: Sequence[Slot], examples: Examples, draws: int, draw: random.Random
) -> list[Permuted]:
    pairs = _pairs(slots)
    if not pairs or not draws:
        return []
    names, found = [slot.name for slot in slots], []
    for number in spread(min(len(slots), _ENOUGH), 6):
        for _ in range(draws):
            order = shuffled(names, pairs, number, draw)
            moved = {place: unit for place, unit in zip(names, order, strict=True) if place != unit}
            with reordered(model, moved):
                found.append(Permuted(number, kendall_tau(names, order), score(model, examples).error))
    return found


def _pairs(slots: Sequence[Slot]) -> list[tuple[str, str]]:
    """The pairs of units that can stand in each other's place: equal shapes, neither of them shared."""
    single = [slot for slot in slots if slot.num_repeats == 1]
    return [(a.name, b.name) for a, b in combinations(single, 2) if shapes_of(a.unit) == shapes_of(b.unit) != _UNKNOWN]


def shuffled(names: Sequence[str], pairs: Sequence[tuple[str, str]], number: int, draw: random.Random) -> list[str]:
    """The names after `number` swaps of random pairs, one after the other."""
    order = list(names)
    for _ in range(number):
        a, b = draw.choice(pairs)
        i, j = order.index(a), order.index(b)
        order[i], order[j] = order[j], order[i]
    return order


def kendall_tau(names: Sequence[str], order: Sequence[str]) -> float:
    """(concordant - discordant) / all pairs of two orders of the same names; 1 where they are equal."""
    place = {name: i for i, name in enumerate(names)}
    pairs = list(combinations([place[name] for name in order], 2))
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs) if pairs else 1.0
