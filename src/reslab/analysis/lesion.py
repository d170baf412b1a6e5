"""Units deleted and permuted at test time: how much a network depends on each, and on their order."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import nn

from reslab.analysis.inputs import EvalBatches, EvalScore, score_model
from reslab.analysis.lesion_paths import PathLength, measure_path_lengths
from reslab.analysis.subject import AnalysisTarget
from reslab.analysis.surgery import (
    BlockSlot,
    block_shape,
    block_slots,
    deletion_obstacle,
    disabled_blocks,
    reordered_blocks,
)
from reslab.nn.network import ResidualNetwork
from reslab.spec.errors import invalid

_MAX_COUNTS = 10
_MAX_SWAPS = 20
_UNKNOWN_SHAPE = (0, 0, 1)


@dataclass(frozen=True)
class LesionOptions:
    """`split`: judge on a whole split in place of the subject's pictures. `draws`: random choices a number of units
    deleted, or pairs swapped (0: leave these out). `path_draws`: sampled paths a length, on `path_images` pictures."""

    split: str = ""
    draws: int = 5
    path_draws: int = 8
    path_images: int = 16
    seed: int = 0


_DEFAULT_OPTIONS = LesionOptions()


@dataclass(frozen=True)
class BlockDeletion:
    """One unit taken out: error (a fraction) and loss without it; None, with the reason, where it is not offered."""

    block: str
    error: float | None
    loss: float | None
    reason: str = ""


@dataclass(frozen=True)
class MultiBlockDeletion:
    """Errors with `num_deleted` units taken out, one for each random choice of them."""

    num_deleted: int
    errors: tuple[float, ...]


@dataclass(frozen=True)
class BlockPermutation:
    """The error with `num_swaps` random pairs of equal shapes swapped; `tau` is Kendall's, 1 for an order unchanged."""

    num_swaps: int
    kendall_tau: float
    error: float


@dataclass(frozen=True)
class LesionResult:
    """What deleting and permuting did; `error` and `loss` are of the whole network, `chance` the error of guessing."""

    model: str
    step: int | None
    kind: str
    error: float
    loss: float
    chance_error: float
    num_images: int
    split: str
    deletions: tuple[BlockDeletion, ...]
    multi_deletions: tuple[MultiBlockDeletion, ...]
    permutations: tuple[BlockPermutation, ...]
    paths: tuple[PathLength, ...]
    notes: tuple[str, ...] = ()


def analyze_lesion(target: AnalysisTarget, options: LesionOptions = _DEFAULT_OPTIONS) -> LesionResult:
    """The error without each unit, without several at random, with units permuted; paths and their gradients.

    Veit et al. 2016, arXiv:1605.06431, Secs. 4 and 5. A deleted unit's branch is zero; a plain unit becomes the
    identity where its shapes agree. Every network is put back as it was.
    Raises ValueError where there is no unit, and for a number below zero.
    """
    if min(options.draws, options.path_draws) < 0 or options.path_images < 1:
        raise invalid("draws of 0 or more, on 1 picture or more", options, nearest=str(_DEFAULT_OPTIONS))
    batches, slots = EvalBatches(target, options.split), block_slots(target.model)
    baseline = score_model(target.model, batches)
    deletable = [slot for slot in slots if not deletion_obstacle(slot.block)]
    rng = random.Random(options.seed)
    paths, path_note = measure_path_lengths(target, options.path_draws, options.path_images, options.seed)
    permutations = _permute(target.model, slots, batches, options.draws, rng)
    notes = (path_note, "" if permutations or not options.draws else "no two units can stand in each other's place")
    return LesionResult(
        model=target.name,
        step=target.step,
        kind="plain" if _is_plain(target.model) else "residual",
        error=baseline.error,
        loss=baseline.loss,
        chance_error=1 - 1 / max(2, len(target.classes) or _num_outputs(target)),
        num_images=baseline.num_images,
        split=options.split,
        deletions=tuple(_delete_each(target.model, slots, batches)),
        multi_deletions=tuple(_delete_several(target.model, deletable, batches, options.draws, rng)),
        permutations=tuple(permutations),
        paths=paths,
        notes=tuple(note for note in notes if note),
    )


def _is_plain(model: nn.Module) -> bool:
    return isinstance(model, ResidualNetwork) and all(block.merge is None for _, block in model.blocks())


def _num_outputs(target: AnalysisTarget) -> int:
    linear_layers = [module for module in target.model.modules() if isinstance(module, nn.Linear)]
    return linear_layers[-1].out_features if linear_layers else int(target.labels.max()) + 1


def score_without_blocks(model: nn.Module, blocks: Sequence[str], batches: EvalBatches) -> EvalScore:
    """Error and loss with the units' branches zero."""
    with disabled_blocks(model, blocks):
        return score_model(model, batches)


def _delete_each(model: nn.Module, slots: Sequence[BlockSlot], batches: EvalBatches) -> list[BlockDeletion]:
    deletions = []
    for slot in slots:
        reason = deletion_obstacle(slot.block)
        if reason:
            deletions.append(BlockDeletion(slot.name, None, None, reason))
        else:
            score = score_without_blocks(model, [slot.name], batches)
            deletions.append(BlockDeletion(slot.name, score.error, score.loss))
    return deletions


def _delete_several(
    model: nn.Module, slots: Sequence[BlockSlot], batches: EvalBatches, draws: int, rng: random.Random
) -> list[MultiBlockDeletion]:
    names, deletions = [slot.name for slot in slots], []
    for count in spaced_counts(len(names)) if draws else ():
        subsets = _sample_subsets(names, count, draws, rng)
        deletions.append(
            MultiBlockDeletion(count, tuple(score_without_blocks(model, blocks, batches).error for blocks in subsets))
        )
    return deletions


def _sample_subsets(names: Sequence[str], size: int, draws: int, rng: random.Random) -> list[Sequence[str]]:
    """`draws` sets of `number` names; every set there is where there are no more than that."""
    all_subsets: list[Sequence[str]] = []
    if size in (1, len(names) - 1, len(names)):
        all_subsets = list(combinations(names, size))
    return all_subsets if all_subsets and len(all_subsets) <= draws else [rng.sample(names, size) for _ in range(draws)]


def spaced_counts(maximum: int, max_values: int = _MAX_COUNTS) -> list[int]:
    """Whole numbers from 1 to `most`, at most `at_most` of them, closer together where they are small."""
    if maximum <= max_values:
        return list(range(1, maximum + 1))
    return sorted({round(1 + (maximum - 1) * (i / (max_values - 1)) ** 1.5) for i in range(max_values)})


def _permute(
    model: nn.Module, slots: Sequence[BlockSlot], batches: EvalBatches, draws: int, rng: random.Random
) -> list[BlockPermutation]:
    pairs = _swappable_pairs(slots)
    if not pairs or not draws:
        return []
    names, permutations = [slot.name for slot in slots], []
    for num_swaps in spaced_counts(min(len(slots), _MAX_SWAPS), 6):
        for _ in range(draws):
            order = random_swaps(names, pairs, num_swaps, rng)
            moves = {
                slot_name: block_name
                for slot_name, block_name in zip(names, order, strict=True)
                if slot_name != block_name
            }
            with reordered_blocks(model, moves):
                permutations.append(
                    BlockPermutation(num_swaps, kendall_tau(names, order), score_model(model, batches).error)
                )
    return permutations


def _swappable_pairs(slots: Sequence[BlockSlot]) -> list[tuple[str, str]]:
    """The pairs of units that can stand in each other's place: equal shapes, neither of them shared."""
    unshared = [slot for slot in slots if slot.num_repeats == 1]
    return [
        (a.name, b.name)
        for a, b in combinations(unshared, 2)
        if block_shape(a.block) == block_shape(b.block) != _UNKNOWN_SHAPE
    ]


def random_swaps(
    names: Sequence[str], pairs: Sequence[tuple[str, str]], num_swaps: int, rng: random.Random
) -> list[str]:
    """The names after `number` swaps of random pairs, one after the other."""
    order = list(names)
    for _ in range(num_swaps):
        a, b = rng.choice(pairs)
        i, j = order.index(a), order.index(b)
        order[i], order[j] = order[j], order[i]
    return order


def kendall_tau(names: Sequence[str], order: Sequence[str]) -> float:
    """(concordant - discordant) / all pairs of two orders of the same names; 1 where they are equal."""
    rank = {name: i for i, name in enumerate(names)}
    pairs = list(combinations([rank[name] for name in order], 2))
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs) if pairs else 1.0
