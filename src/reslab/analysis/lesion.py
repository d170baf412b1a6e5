"""The lesion study: delete and permute blocks at test time, and measure how much the network depends on each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import nn

from reslab.analysis.blocks import find_composite_blocks
from reslab.analysis.lesion_paths import PathLength, measure_path_lengths
from reslab.analysis.surgery import (
    BlockSlot,
    block_shape,
    block_slots,
    deletion_obstacle,
    disabled_blocks,
    reordered_blocks,
)
from reslab.analysis.target import AnalysisTarget, ErrorMeasure, EvalBatches, EvalScore, score_model
from reslab.nn.block import ResidualBlock
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind

_MAX_COUNTS = 10
_MAX_SWAPS = 20
_UNKNOWN_SHAPE = (0, 0, 1)


@dataclass(frozen=True)
class LesionOptions:
    """The images to evaluate on (a whole `split`, or the target's own if empty), and the numbers of random draws.

    `draws` random choices are made for each number of deleted blocks and of swapped pairs (0: skip these parts), and
    `path_draws` paths are sampled for each length, on `path_images` images.
    """

    split: str = ""
    draws: int = 5
    path_draws: int = 8
    path_images: int = 16
    seed: int = 0


_DEFAULT_OPTIONS = LesionOptions()


@dataclass(frozen=True)
class BlockDeletion:
    """Error and loss without one block; both are None, with the `reason`, where it cannot be deleted."""

    block: str
    error: float | None
    loss: float | None
    reason: str = ""


@dataclass(frozen=True)
class MultiBlockDeletion:
    """The errors with `num_deleted` blocks deleted, one for each random choice of blocks."""

    num_deleted: int
    errors: tuple[float, ...]


@dataclass(frozen=True)
class BlockPermutation:
    """The error after `num_swaps` random swaps of blocks with equal shapes; `kendall_tau` is 1 for the old order."""

    num_swaps: int
    kendall_tau: float
    error: float


@dataclass(frozen=True)
class LesionResult:
    """The effects of deletions and permutations; `error` and `loss` are those of the intact network.

    `measure` says what the error is. `kind` is `plain` or `residual`, `chance_error` the error of guessing a class,
    None for other tasks. `notes` explain parts that are missing.
    """

    model: str
    step: int | None
    kind: str
    error: float
    loss: float | None
    measure: ErrorMeasure
    chance_error: float | None
    num_images: int
    split: str
    deletions: tuple[BlockDeletion, ...]
    multi_deletions: tuple[MultiBlockDeletion, ...]
    permutations: tuple[BlockPermutation, ...]
    paths: tuple[PathLength, ...]
    notes: tuple[str, ...] = ()


def analyze_lesion(target: AnalysisTarget, options: LesionOptions = _DEFAULT_OPTIONS) -> LesionResult:
    """Measure the error without each block, without several random ones, and with blocks permuted; and the paths.

    Veit et al. 2016, arXiv:1605.06431, Secs. 4 and 5. The branch of a deleted block is zero; a plain block becomes the
    identity where its shapes agree. Every change to the network is undone. Raises ValueError for a network without
    blocks, and for a negative number of draws.
    """
    if min(options.draws, options.path_draws) < 0 or options.path_images < 1:
        raise invalid("draws of at least 0 and path_images of at least 1", options, nearest=str(_DEFAULT_OPTIONS))
    batches, slots = EvalBatches(target, options.split), block_slots(target.model)
    baseline = score_model(target.model, batches)
    deletable = [slot for slot in slots if deletion_obstacle(slot.block) is None]
    # One generator serves permutations and then deletions: the order of the two calls is part of the result.
    rng = random.Random(options.seed)
    paths, path_note = measure_path_lengths(target, options.path_draws, options.path_images, options.seed)
    permutations = _permute(target.model, slots, batches, options.draws, rng)
    notes = (path_note, "" if permutations or not options.draws else "no two blocks can be swapped")
    return LesionResult(
        model=target.name,
        step=target.step,
        kind="plain" if _is_plain(target.model) else "residual",
        error=baseline.error,
        loss=baseline.loss,
        measure=ErrorMeasure.of_task(target.task),
        chance_error=_chance_error(target),
        num_images=baseline.num_images,
        split=options.split,
        deletions=tuple(_delete_each(target.model, slots, batches)),
        multi_deletions=tuple(_delete_several(target.model, deletable, batches, options.draws, rng)),
        permutations=tuple(permutations),
        paths=paths,
        notes=tuple(note for note in notes if note),
    )


def _is_plain(model: nn.Module) -> bool:
    blocks = [block for _, block in find_composite_blocks(model)]
    return bool(blocks) and all(isinstance(block, ResidualBlock) and block.merge is None for block in blocks)


def _chance_error(target: AnalysisTarget) -> float | None:
    """Return the error of guessing the class; None where the target is not one class."""
    if target.task.spec.target is not TargetKind.CLASS:
        return None
    return 1 - 1 / max(2, len(target.classes) or _num_outputs(target))


def _num_outputs(target: AnalysisTarget) -> int:
    linear_layers = [module for module in target.model.modules() if isinstance(module, nn.Linear)]
    return linear_layers[-1].out_features if linear_layers else int(target.labels.max()) + 1


def score_without_blocks(model: nn.Module, blocks: Sequence[str], batches: EvalBatches) -> EvalScore:
    """Return error and loss with the branches of these blocks switched off."""
    with disabled_blocks(model, blocks):
        return score_model(model, batches)


def _delete_each(model: nn.Module, slots: Sequence[BlockSlot], batches: EvalBatches) -> list[BlockDeletion]:
    deletions = []
    for slot in slots:
        obstacle = deletion_obstacle(slot.block)
        if obstacle is not None:
            deletions.append(BlockDeletion(slot.name, None, None, obstacle))
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
        errors = tuple(score_without_blocks(model, blocks, batches).error for blocks in subsets)
        deletions.append(MultiBlockDeletion(count, errors))
    return deletions


def _sample_subsets(names: Sequence[str], size: int, draws: int, rng: random.Random) -> list[Sequence[str]]:
    """Return `draws` random subsets of the names, or all subsets of this size where there are no more than that."""
    all_subsets: list[Sequence[str]] = []
    if size in (1, len(names) - 1, len(names)):
        all_subsets = list(combinations(names, size))
    return all_subsets if all_subsets and len(all_subsets) <= draws else [rng.sample(names, size) for _ in range(draws)]


def spaced_counts(maximum: int, max_values: int = _MAX_COUNTS) -> list[int]:
    """Return at most `max_values` whole numbers from 1 to `maximum`, closer together where they are small."""
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
                error = score_model(model, batches).error
            permutations.append(BlockPermutation(num_swaps, kendall_tau(names, order), error))
    return permutations


def _swappable_pairs(slots: Sequence[BlockSlot]) -> list[tuple[str, str]]:
    """Return the pairs of blocks that can be swapped: of equal shapes, and neither of them shared."""
    unshared = [slot for slot in slots if slot.num_repeats == 1]
    return [
        (a.name, b.name)
        for a, b in combinations(unshared, 2)
        if block_shape(a.block) == block_shape(b.block) != _UNKNOWN_SHAPE
    ]


def random_swaps(
    names: Sequence[str], pairs: Sequence[tuple[str, str]], num_swaps: int, rng: random.Random
) -> list[str]:
    """Return the names after `num_swaps` swaps of random pairs, one after the other."""
    order = list(names)
    for _ in range(num_swaps):
        a, b = rng.choice(pairs)
        i, j = order.index(a), order.index(b)
        order[i], order[j] = order[j], order[i]
    return order


def kendall_tau(names: Sequence[str], order: Sequence[str]) -> float:
    """Return (concordant - discordant) / all pairs of two orders of the same names; 1 where they are equal."""
    rank = {name: i for i, name in enumerate(names)}
    pairs = list(combinations([rank[name] for name in order], 2))
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs) if pairs else 1.0
