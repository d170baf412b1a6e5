"""The signal through the blocks of a network: sums of branches, products of shortcut factors, layouts.

`telescope` tests x_L = x_l + sum of F(x_i) inside each stage, `scaling` multiplies the factors and gates on the
shortcuts, and `orders` measures what a block layout does to the signal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from reslab.analysis.gradients import (
    SCALING_RULE,
    DepthVerdict,
    backward_with_block_gradients,
    depth_verdict,
    grad_or_zeros,
)
from reslab.analysis.layers import (
    BlockCall,
    check_memory,
    decompose_block,
    find_blocks,
    group_by_stage,
    is_identity_block,
    record_block_calls,
    shortcut_gradients,
    with_statistics,
)
from reslab.analysis.target import AnalysisTarget, as_block_network, backbone_of
from reslab.nn.block import ResidualBlock
from reslab.nn.merge import GatedMerge
from reslab.spec.errors import invalid
from reslab.spec.layout import order_text

# A pass without gradients keeps the block outputs: at most this fraction of all layer outputs.
_KEPT_FRACTION = 0.3

# Rounding of a sum of ten blocks in float32 stays below a few times 1e-7 of the result.
ROUNDING_TOLERANCE = 1e-5


def _collect_block_calls(network: nn.Module, images: Tensor, statistics: str) -> list[BlockCall]:
    """Return the calls of the network's blocks on the images, without gradients."""
    check_memory(network, images, fraction=_KEPT_FRACTION)
    model = with_statistics(network, statistics)
    with torch.no_grad(), record_block_calls(model) as calls:
        model(images)
    return calls


def _relative_error(actual: Tensor, predicted: Tensor) -> float:
    return float((actual - predicted).norm() / actual.norm().clamp_min(1e-300))


@dataclass(frozen=True)
class TelescopeOptions:
    """The `statistics` that norms use: `auto` takes the batch's before any training, else the running ones."""

    statistics: str = "auto"


class TelescopeVerdict(StrEnum):
    """The result of comparing the signal at the end of a stage with the signal before it plus all branches."""

    HOLDS = "holds"
    PARTLY_HOLDS = "partly holds"
    FAILS = "fails"
    NOT_APPLICABLE = "not applicable"


class IdentityObstacle(StrEnum):
    """The reason why a block is not x + F(x)."""

    NO_SHORTCUT = "no_shortcut"
    CHANGED_SHORTCUT = "changed_shortcut"
    OPERATION_AFTER_MERGE = "operation_after_merge"
    SHORTCUT_TYPE = "shortcut_type"


@dataclass(frozen=True)
class TelescopeBlock:
    """The sum from block l to the end L of its stage: `error` = ||x_L - (x_l + sum of branches)|| / ||x_L||.

    `error` is None where the block changes the shape. x_l is the input that shortcut and branch share. `is_exact`: all
    blocks from here on are x + F(x), so the sum should hold. `branch_ratio` = ||F(x_l)|| / ||x_(l+1)|| of this block.
    """

    name: str
    label: str
    error: float | None
    is_exact: bool
    branch_ratio: float


@dataclass(frozen=True)
class TelescopeResult:
    """The blocks first to last, and the largest error where the sum should hold and where it should not.

    Either error is None where there is no such block. `obstacle` is the reason why the last block is not x + F(x), and
    `obstacle_text` says it in words; None and empty where it is.
    """

    model: str
    step: int | None
    blocks: tuple[TelescopeBlock, ...]
    max_exact_error: float | None
    max_inexact_error: float | None
    verdict: TelescopeVerdict
    obstacle: IdentityObstacle | None
    obstacle_text: str


def analyze_telescope(target: AnalysisTarget, options: TelescopeOptions) -> TelescopeResult:
    """Measure the error of x_L = x_l + sum_{i=l}^{L-1} F(x_i) inside each stage.

    He et al. 2016, arXiv:1603.05027, Eq. 4: it holds where the shortcut and what follows the addition are identities.
    Sums are taken in float64 of what the network computed. Raises ValueError for a third-party module that no network
    of the zoo equals.
    """
    with torch.no_grad():
        stages = group_by_stage(_collect_block_calls(as_block_network(target), target.images, options.statistics))
        blocks = tuple(block for stage in stages for block in _telescope_blocks(stage))
    exact_errors = [block.error for block in blocks if block.error is not None and block.is_exact]
    inexact_errors = [block.error for block in blocks if block.error is not None and not block.is_exact]
    last_block = stages[-1][-1].block
    assert isinstance(last_block, ResidualBlock)
    obstacle = find_identity_obstacle(last_block)
    return TelescopeResult(
        model=target.name,
        step=target.step,
        blocks=blocks,
        max_exact_error=max(exact_errors, default=None),
        max_inexact_error=max(inexact_errors, default=None),
        verdict=_telescope_verdict(exact_errors, inexact_errors),
        obstacle=obstacle,
        obstacle_text=_obstacle_text(obstacle, last_block),
    )


def _telescope_blocks(stage: list[BlockCall]) -> list[TelescopeBlock]:
    """Return the blocks of a stage, computed from the last one back so that the branches add up on the way."""
    stage_output = stage[-1].output.double()
    branch_sum, is_exact = torch.zeros_like(stage_output), True
    blocks = []
    for call in reversed(stage):
        assert isinstance(call.block, ResidualBlock)
        parts = decompose_block(call.block, call.input)
        branch_sum, is_exact = branch_sum + parts.branch.double(), is_exact and is_identity_block(call.block)
        error = None
        if parts.fork.shape == stage_output.shape:
            difference = stage_output - parts.fork.double() - branch_sum
            error = float(difference.norm() / stage_output.norm().clamp_min(1e-300))
        branch_ratio = float(parts.branch.norm() / call.output.norm().clamp_min(1e-30))
        blocks.append(TelescopeBlock(call.name, call.label, error, is_exact, branch_ratio))
        # Operations before the fork change the signal, so the sum from an earlier block does not pass this one.
        is_exact = is_exact and not call.block.pre_names
    return blocks[::-1]


def _telescope_verdict(exact_errors: Sequence[float], inexact_errors: Sequence[float]) -> TelescopeVerdict:
    if not exact_errors and not inexact_errors:
        return TelescopeVerdict.NOT_APPLICABLE
    exact_holds = max(exact_errors, default=0.0) <= ROUNDING_TOLERANCE
    if max(inexact_errors, default=0.0) <= ROUNDING_TOLERANCE:
        return TelescopeVerdict.HOLDS if exact_holds else TelescopeVerdict.FAILS
    return TelescopeVerdict.PARTLY_HOLDS if exact_errors and exact_holds else TelescopeVerdict.FAILS


def find_identity_obstacle(block: ResidualBlock) -> IdentityObstacle | None:
    """Return the reason why a block is not x + F(x), or None if it is."""
    if block.merge is None:
        return IdentityObstacle.NO_SHORTCUT
    if not block.merge.is_plain_sum:
        return IdentityObstacle.CHANGED_SHORTCUT
    if block.post_names:
        return IdentityObstacle.OPERATION_AFTER_MERGE
    return None if block.spec.has_identity_shortcut else IdentityObstacle.SHORTCUT_TYPE


def _obstacle_text(obstacle: IdentityObstacle | None, block: ResidualBlock) -> str:
    if obstacle is None:
        return ""
    shortcut = block.spec.shortcut.description if block.spec.shortcut else "none"
    operations = ("norm" if name.startswith("bn") else name.rstrip("0123456789") for name in block.post_names)
    return {
        IdentityObstacle.NO_SHORTCUT: "there is no shortcut",
        IdentityObstacle.CHANGED_SHORTCUT: "the merge changes the shortcut",
        IdentityObstacle.OPERATION_AFTER_MERGE: f"the addition is followed by {' '.join(operations)}",
        IdentityObstacle.SHORTCUT_TYPE: f"the shortcut is {shortcut}",
    }[obstacle]


@dataclass(frozen=True)
class ScalingOptions:
    """The `statistics` that norms use: `batch` as in training, `running` as in eval mode."""

    statistics: str = "batch"


@dataclass(frozen=True)
class ScalingBlock:
    """The factor on the shortcut at one call of a block, and what it leads to at the end of the stage.

    `factor` multiplies the shortcut (for a gate the mean of 1 - g, with the mean `gate_value` of its sigmoid g).
    `factor_product`, the product of the factors to the stage's end, predicts `shortcut_gradient`: the norm of the
    gradient that returns through the shortcuts alone, over the norm at the stage's end. `total_gradient` is the same
    ratio of the whole gradient. `branch_factor` is the product of the later factors, which multiplies this branch.
    `error` is that of x_L = product * x_l + sum of the multiplied branches, over ||x_L||. A value is None where the
    block changes the shape, `gate_value` where there is no gate.
    """

    name: str
    label: str
    factor: float | None
    gate_value: float | None
    factor_product: float | None
    shortcut_gradient: float | None
    total_gradient: float | None
    branch_factor: float
    error: float | None


@dataclass(frozen=True)
class ScalingResult:
    """The blocks first to last, the product P of all factors, `decades` = log10 |P|, and the verdict with its `rule`.

    The verdict is that of `analyze_gradients` on the gradient that returns through the shortcuts alone.
    """

    model: str
    step: int | None
    blocks: tuple[ScalingBlock, ...]
    factor_product: float
    decades: float
    verdict: DepthVerdict
    rule: str = SCALING_RULE


def analyze_scaling(target: AnalysisTarget, options: ScalingOptions) -> ScalingResult:
    """Measure the factors and gates of the shortcuts, what their product predicts, and the gradient itself.

    x_(l+1) = k_l x_l + F(x_l) gives x_L = (prod k_i) x_l + sum (prod_(j>i) k_j) F(x_i), and dL/dx_l = dL/dx_L
    (prod k_i + ...): He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8; gates: Sec. 3.1. Raises ValueError for a network
    without shortcuts, and for a third-party module that no network of the zoo equals.
    """
    network = as_block_network(target)
    if all(isinstance(block, ResidualBlock) and block.merge is None for _, block in find_blocks(network)):
        raise invalid("a network with shortcuts", f"{target.name} with merge=none", "merge=add")
    model = with_statistics(network, options.statistics)
    _, calls = backward_with_block_gradients(model, target.images, target.labels, target.batch_loss)
    blocks = tuple(block for stage in group_by_stage(calls) for block in _scaling_blocks(stage))
    factor_product = math.prod(block.factor for block in blocks if block.factor is not None)
    decades = math.log10(abs(factor_product)) if factor_product else -math.inf
    return ScalingResult(
        model=target.name,
        step=target.step,
        blocks=blocks,
        factor_product=factor_product,
        decades=decades,
        verdict=depth_verdict(decades),
    )


def _scaling_blocks(stage: list[BlockCall]) -> list[ScalingBlock]:
    """Return the blocks of a stage, computed from the last one back: products, the sum of Eq. 7, both gradients."""
    end_gradient, stage_output = grad_or_zeros(stage[-1].output), stage[-1].output.detach().double()
    shortcut_gradient, end_norm = end_gradient, float(end_gradient.norm())
    # The factor of a gate differs from element to element; the tensor is exact, the number is the mean for people.
    factor_tensor, factor_product, branch_sum = torch.ones_like(stage_output), 1.0, torch.zeros_like(stage_output)
    blocks = []
    for call in reversed(stage):
        assert isinstance(call.block, ResidualBlock)
        [shortcut_gradient] = shortcut_gradients(call.block, call.input, shortcut_gradient)
        with torch.no_grad():
            branch_sum = branch_sum + factor_tensor * decompose_block(call.block, call.input).branch.double()
            factor, gate_value = shortcut_factor(call)
        branch_factor = factor_product
        if factor is not None:
            factor_tensor, factor_product = factor_tensor * factor, factor_product * float(factor.mean())
        keeps_shape = factor is not None and not call.block.pre_names
        error = None
        if keeps_shape:
            error = _relative_error(stage_output, factor_tensor * call.input.detach().double() + branch_sum)
        has_gradient = keeps_shape and end_norm != 0
        blocks.append(
            ScalingBlock(
                name=call.name,
                label=call.label,
                factor=None if factor is None else float(factor.mean()),
                gate_value=gate_value,
                factor_product=factor_product if keeps_shape else None,
                shortcut_gradient=float(shortcut_gradient.norm()) / end_norm if has_gradient else None,
                total_gradient=float(grad_or_zeros(call.input).norm()) / end_norm if has_gradient else None,
                branch_factor=branch_factor,
                error=error,
            )
        )
    return blocks[::-1]


def shortcut_factor(call: BlockCall) -> tuple[Tensor | None, float | None]:
    """Return what multiplies the shortcut, and the mean value of its gate; no factor where the shape changes."""
    block = call.block
    assert isinstance(block, ResidualBlock)
    if block.merge is None:
        return torch.zeros(()) if call.input.shape == call.output.shape else None, None
    fork = block.pre(call.input.detach())
    ones, zeros = torch.ones_like(call.output), torch.zeros_like(call.output)
    gate_value = float(block.merge.gate_value(fork).mean()) if isinstance(block.merge, GatedMerge) else None
    if not block.spec.has_identity_shortcut:
        return None, gate_value
    return block.merge(fork, ones, zeros).double(), gate_value


@dataclass(frozen=True)
class OrderOptions:
    """The `statistics` that norms use: `auto` takes the batch's before any training, else the running ones."""

    statistics: str = "auto"


@dataclass(frozen=True)
class OrderBlock:
    """One call of a block with shortcut a and branch b, y = post(a + b).

    `superposition_error` = ||post(a + b) - post(a) - post(b)|| / ||post(a + b)||, 0 where nothing follows the addition.
    Of the branch b: its minimum, its mean and the fraction of its values below zero. Of y: `mean`, `variance`, and
    `growth`, the variance over that of the stage's first output.
    """

    name: str
    label: str
    superposition_error: float
    branch_min: float
    branch_mean: float
    branch_negative_fraction: float
    mean: float
    variance: float
    growth: float


@dataclass(frozen=True)
class OrderResult:
    """The blocks first to last, the order with its layout, and the extremes over all blocks."""

    model: str
    step: int | None
    order: str
    layout: str
    blocks: tuple[OrderBlock, ...]
    max_superposition_error: float
    min_branch: float
    max_growth: float


def analyze_orders(target: AnalysisTarget, options: OrderOptions) -> OrderResult:
    """Measure how far the operations after the addition are from linear, what branches add, and how the signal grows.

    BN after the addition normalizes and rectifies the shortcut's signal too: post(a + b) is not post(a) + post(b).
    ReLU before the addition makes every branch non-negative, so the signal can only grow (He et al. 2016,
    arXiv:1603.05027, Sec. 4.1). With batch statistics each term is normalized by its own; with running ones their
    offsets count too. Raises ValueError for a third-party module that no network of the zoo equals.
    """
    network = as_block_network(target)
    arch = backbone_of(network).arch
    with torch.no_grad():
        calls = _collect_block_calls(network, target.images, options.statistics)
        blocks = tuple(block for stage in group_by_stage(calls) for block in _order_blocks(stage))
    return OrderResult(
        model=target.name,
        step=target.step,
        order=arch.order,
        layout=order_text(arch),
        blocks=blocks,
        max_superposition_error=max(block.superposition_error for block in blocks),
        min_branch=min(block.branch_min for block in blocks),
        max_growth=max(block.growth for block in blocks),
    )


def _order_blocks(stage: list[BlockCall]) -> list[OrderBlock]:
    first_variance = _output_variance(stage[0])
    return [_order_block(call, first_variance) for call in stage]


def _order_block(call: BlockCall, first_variance: float) -> OrderBlock:
    assert isinstance(call.block, ResidualBlock)
    parts = decompose_block(call.block, call.input)
    separate_sum = (
        call.block.post(parts.shortcut) + call.block.post(parts.branch) if call.block.post_names else parts.output
    )
    variance = _output_variance(call)
    return OrderBlock(
        name=call.name,
        label=call.label,
        superposition_error=float((parts.output - separate_sum).norm() / parts.output.norm().clamp_min(1e-30)),
        branch_min=float(parts.branch.min()),
        branch_mean=float(parts.branch.mean()),
        branch_negative_fraction=float((parts.branch < 0).float().mean()),
        mean=float(call.output.mean()),
        variance=variance,
        growth=variance / first_variance if first_variance else 0.0,
    )


def _output_variance(call: BlockCall) -> float:
    return float(call.output.double().var(correction=0))
