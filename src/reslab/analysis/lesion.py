"""The lesion study: delete and permute blocks at test time, and measure how much the network depends on each.

Also the 2^n paths through the network by length: their number, and the gradient that flows through them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.layers import find_composite_blocks
from reslab.analysis.surgery import (
    BlockSlot,
    block_shape,
    block_slots,
    deletion_obstacle,
    disabled_blocks,
    reordered_blocks,
)
from reslab.analysis.target import (
    AnalysisTarget,
    ErrorMeasure,
    EvalBatches,
    EvalScore,
    as_residual_network,
    score_model,
)
from reslab.nn.block import ResidualBlock
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork, SharedStage
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind
from reslab.training.losses import LossFn


@dataclass(frozen=True)
class PathLength:
    """The paths through `length` branches: their fraction of the 2^n paths, and the gradient they transport.

    `gradient_norm` is the mean norm that one such path brings to the first block's input, `contribution` the fraction
    of the total that all of them bring (norm times number).
    """

    length: int
    fraction: float
    gradient_norm: float
    contribution: float


@dataclass(frozen=True, eq=False)
class BlockLink:
    """One block for backpropagation through either path: the output once as a function of the shortcut alone, once of
    the branch alone.

    Both outputs have the same value. A gate counts with the shortcut.
    """

    x: Tensor
    shortcut_output: Tensor
    branch_output: Tensor

    def backward(self, gradient: Tensor, through_branch: bool) -> Tensor:
        """Return the part of the gradient at the block's input that comes through one of the two paths."""
        output = self.branch_output if through_branch else self.shortcut_output
        if not output.requires_grad:
            return torch.zeros_like(self.x)
        (input_gradient,) = torch.autograd.grad(output, self.x, gradient, retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.x) if input_gradient is None else input_gradient


def measure_path_lengths(
    target: AnalysisTarget, draws: int, num_images: int, seed: int
) -> tuple[tuple[PathLength, ...], str]:
    """Return the paths by length with the gradient they transport, and a note that says why there are none.

    Veit et al. 2016, arXiv:1605.06431, Sec. 5 and Fig. 6: of n blocks, C(n, k) / 2^n of the paths have length k. For
    each k, k blocks are drawn `draws` times, and the gradient is propagated through the branches of these and the
    shortcuts of the others. All draws share one forward pass over `num_images` images.
    """
    if not draws:
        return (), ""
    if isinstance(target.model, DenseNetwork):
        return (), "paths are not measured: they are those of a whole network from image to logits, not of a backbone"
    try:
        network = as_residual_network(target)
    except ValueError as error:
        return (), f"paths are not measured: {error}"
    if any(block.merge is None for _, block in network.blocks()):
        return (), "paths are not measured: a plain network has only one"
    links, gradient = build_block_links(
        network, target.images[:num_images], target.labels[:num_images], target.task.default_loss()
    )
    rng, num_blocks = random.Random(seed), len(links)
    norms = []
    for length in range(num_blocks + 1):
        num_samples = 1 if length in (0, num_blocks) else draws  # there is one path without and one with all branches
        paths = [rng.sample(range(num_blocks), length) for _ in range(num_samples)]
        norms.append(fmean(float(path_gradient(links, gradient, path).norm()) for path in paths))
    fractions = [comb(num_blocks, k) / 2**num_blocks for k in range(num_blocks + 1)]
    total = sum(fraction * norm for fraction, norm in zip(fractions, norms, strict=True)) or 1.0
    rows = zip(range(num_blocks + 1), fractions, norms, strict=True)
    return tuple(PathLength(k, fraction, norm, fraction * norm / total) for k, fraction, norm in rows), ""


def build_block_links(
    model: ResidualNetwork, x: Tensor, y: Tensor, loss_fn: LossFn | None = None
) -> tuple[list[BlockLink], Tensor]:
    """Return the blocks as links, in the order they run, and the loss gradient at the last one's output.

    The loss is the mean cross-entropy, unless another is given. Every link starts at a leaf tensor, so that any path
    can be backpropagated block by block.
    """
    links = []
    with torch.enable_grad():
        link_inputs, last_output = _collect_link_inputs(model, x)
        for ahead, block, link_input in link_inputs:
            links.append(_make_link(ahead, block, link_input.detach().requires_grad_()))
        last_output = last_output.detach().requires_grad_()
        loss = (loss_fn or functional.cross_entropy)(model.forward_tail(last_output), y)
        (gradient,) = torch.autograd.grad(loss, last_output)
    return links, gradient


@torch.no_grad()
def _collect_link_inputs(
    model: ResidualNetwork, x: Tensor
) -> tuple[list[tuple[Callable[[Tensor], Tensor], ResidualBlock, Tensor]], Tensor]:
    """Return each call of a block with what runs ahead of it (a transition) and its input, and the last output."""
    links: list[tuple[Callable[[Tensor], Tensor], ResidualBlock, Tensor]] = []
    out = model.forward_stem(x)
    for name, stage in model.stages():
        num_calls = stage.num_repeats if isinstance(stage, SharedStage) else len(stage)
        for index in range(num_calls):
            block = stage[0 if isinstance(stage, SharedStage) else index]
            assert isinstance(block, ResidualBlock)
            ahead = partial(model.forward_transition, name) if index == 0 else _identity
            links.append((ahead, block, out))
            out = block(ahead(out))
    return links, out


def _identity(x: Tensor) -> Tensor:
    return x


def _make_link(ahead: Callable[[Tensor], Tensor], block: ResidualBlock, x: Tensor) -> BlockLink:
    assert block.merge is not None
    assert block.downsample is not None
    p = block.pre(ahead(x))
    branch, shortcut = block.branch(p), block.downsample(p)
    shortcut_output = block.post(block.merge(p, shortcut, branch.detach()))
    branch_output = block.post(block.merge(p.detach(), shortcut.detach(), branch))
    return BlockLink(x, shortcut_output, branch_output)


def path_gradient(links: Sequence[BlockLink], gradient: Tensor, branches: Sequence[int]) -> Tensor:
    """Return the gradient at the first block's input along one path.

    The path takes the branches of the blocks in `branches`, counted from 0, and the shortcuts of the others.
    """
    branch_indices = set(branches)
    for i in range(len(links) - 1, -1, -1):
        gradient = links[i].backward(gradient, i in branch_indices)
    return gradient


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
