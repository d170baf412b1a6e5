"""What factors on the shortcuts do to the signal and to the gradient: they multiply from unit to unit.

Whether the output of a stage is its input plus what every branch adds: x_L = x_l + sum of F(x_i).

What an order of words does to the signal that passes from unit to unit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.blocks import (
    BlockCall,
    as_residual_network,
    collect_block_calls,
    decompose_block,
    group_by_stage,
    is_identity_block,
    shortcut_gradients,
    with_statistics,
)
from reslab.analysis.gradients import backward_with_block_gradients, grad_or_zeros
from reslab.analysis.subject import AnalysisTarget
from reslab.nn.block import ResidualBlock
from reslab.spec.errors import invalid
from reslab.spec.order import get_order

SCALING_RULE = (
    "P is the product of the shortcuts' factors from the first unit to the last, over the units that keep their shape. "
    "Exploding: P > 1. Vanishing: P < 1. Kept: P = 1, to one in a thousand."
)


@dataclass(frozen=True)
class ScalingOptions:
    """`statistics` of the norms: `batch` as in training, `running` as at test."""

    statistics: str = "batch"


@dataclass(frozen=True)
class ScalingBlock:
    """One run of a unit. `factor`: what multiplies the shortcut, for a gate the mean of 1 - g; `openness` the mean of
    the gate's sigmoid g, None without a gate. To the stage's end: `product` of the factors, which predicts `direct`,
    the part of the gradient's norm that comes back by the shortcuts alone; `total`, the whole gradient's, both over the
    norm at the stage's end. `carried`: the product of the later factors, which this branch carries. `error`: of
    x_L = product x_l + sum of carried branches, over ||x_L||. None where the unit changes the shape."""

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
    """The units first to last, P over all of them, and the verdict: `exploding`, `vanishing` or `kept`."""

    model: str
    step: int | None
    blocks: tuple[ScalingBlock, ...]
    factor_product: float
    verdict: str
    rule: str = SCALING_RULE


def analyze_scaling(target: AnalysisTarget, options: ScalingOptions) -> ScalingResult:
    """Factors and gates of the shortcuts, what their product predicts and what the gradient does.

    x_(l+1) = k_l x_l + F(x_l) gives x_L = (prod k_i) x_l + sum (prod_(j>i) k_j) F(x_i), and dL/dx_l = dL/dx_L
    (prod k_i + ...): He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8; gates: Sec. 3.1. Raises ValueError for a network
    without shortcuts, and a module of others that no network of the zoo equals.
    """
    network = as_residual_network(target)
    if all(block.merge is None for _, block in network.blocks()):
        raise invalid("a network with shortcuts", f"{target.name}, whose mix is none", "merge=add")
    _, calls = backward_with_block_gradients(with_statistics(network, options.statistics), target.images, target.labels)
    blocks = tuple(block for stage in group_by_stage(calls) for block in _scaling_blocks(stage))
    factor_product = math.prod(block.factor for block in blocks if block.factor is not None)
    verdict = "exploding" if factor_product > 1.001 else "vanishing" if factor_product < 0.999 else "kept"
    return ScalingResult(target.name, target.step, blocks, factor_product, verdict)


def _scaling_blocks(stage: list[BlockCall]) -> list[ScalingBlock]:
    """From the last unit back: products, the telescoped sum of Eq. 7, the two gradients."""
    end_gradient, stage_output = grad_or_zeros(stage[-1].output), stage[-1].output.detach().double()
    shortcut_gradient, end_norm = end_gradient, float(end_gradient.norm())
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
        blocks.append(
            ScalingBlock(
                call.name,
                call.label,
                None if factor is None else float(factor.mean()),
                gate_value,
                factor_product if keeps_shape else None,
                float(shortcut_gradient.norm()) / end_norm if keeps_shape and end_norm else None,
                float(grad_or_zeros(call.input).norm()) / end_norm if keeps_shape and end_norm else None,
                branch_factor,
                _scaling_error(stage_output, factor_tensor * call.input.detach().double() + branch_sum)
                if keeps_shape
                else None,
            )
        )
    return blocks[::-1]


def shortcut_factor(call: BlockCall) -> tuple[Tensor | None, float | None]:
    """What multiplies the shortcut, and the mean openness of its gate; no factor where the shape is changed."""
    block = call.block
    assert isinstance(block, ResidualBlock)
    if block.merge is None:
        return torch.zeros(()), None
    fork = block.pre(call.input.detach())
    ones, zeros = torch.ones_like(call.output), torch.zeros_like(call.output)
    gate_value = float(block.merge.gate_value(fork).mean()) if hasattr(block.merge, "gate") else None
    if block.spec.shortcut != "identity":
        return None, gate_value
    return block.merge(fork, ones, zeros).double(), gate_value


def _scaling_error(actual: Tensor, predicted: Tensor) -> float:
    return float((actual - predicted).norm() / actual.norm().clamp_min(1e-300))


# Ten units of float32 sums stay below a few times 1e-7 of their result.
ROUNDING_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TelescopeOptions:
    """`statistics` of the norms: `auto` is the batch's before any training, else the running ones."""

    statistics: str = "auto"


@dataclass(frozen=True)
class TelescopeBlock:
    """From unit l to its stage's end L: `error` = ||x_L - (x_l + sum of branches)|| / ||x_L||; None where the unit
    changes the shape. x_l is what shortcut and branch both read. `exact`: all units between are x + F(x).
    `share` = ||F(x_l)|| / ||x_(l+1)|| of the one unit."""

    name: str
    label: str
    error: float | None
    is_exact: bool
    branch_ratio: float


@dataclass(frozen=True)
class TelescopeResult:
    """The units first to last; the largest error where the sum should hold and where not (None where there is no such
    unit), what stands in its way, and the verdict: `holds`, `fails`, `holds in part`, `no unit keeps its shape`."""

    model: str
    step: int | None
    blocks: tuple[TelescopeBlock, ...]
    max_exact_error: float | None
    max_inexact_error: float | None
    obstacle: str
    verdict: str


def analyze_telescope(target: AnalysisTarget, options: TelescopeOptions) -> TelescopeResult:
    """The error of x_L = x_l + sum_{i=l}^{L-1} F(x_i) inside each stage (He et al. 2016, arXiv:1603.05027, Eq. 4).

    It holds where shortcut and the words after the addition are identities; sums are taken in float64 of what the
    network computed. Raises ValueError for a module of others that no network of the zoo equals.
    """
    with torch.no_grad():
        stages = group_by_stage(collect_block_calls(as_residual_network(target), target.images, options.statistics))
        blocks = tuple(block for stage in stages for block in _telescope_blocks(stage))
    exact_errors = [block.error for block in blocks if block.error is not None and block.is_exact]
    inexact_errors = [block.error for block in blocks if block.error is not None and not block.is_exact]
    return TelescopeResult(
        target.name,
        target.step,
        blocks,
        max(exact_errors, default=None),
        max(inexact_errors, default=None),
        identity_obstacle(stages[-1][-1].block),
        _telescope_verdict(exact_errors, inexact_errors),
    )


def _telescope_blocks(stage: list[BlockCall]) -> list[TelescopeBlock]:
    """From the last unit back, so that the branches are summed on the way."""
    stage_output = stage[-1].output.double()
    branch_sum, is_exact = torch.zeros_like(stage_output), True
    blocks = []
    for call in reversed(stage):
        assert isinstance(call.block, ResidualBlock)
        parts = decompose_block(call.block, call.input)
        branch_sum, is_exact = branch_sum + parts.branch.double(), is_exact and is_identity_block(call.block)
        error = (
            _telescope_error(stage_output, parts.fork, branch_sum) if parts.fork.shape == stage_output.shape else None
        )
        branch_ratio = float(parts.branch.norm() / call.output.norm().clamp_min(1e-30))
        blocks.append(TelescopeBlock(call.name, call.label, error, is_exact, branch_ratio))
        # Words ahead of the fork change the signal: units before this one do not reach through it.
        is_exact = is_exact and not call.block.pre_names
    return blocks[::-1]


def _telescope_error(stage_output: Tensor, fork: Tensor, branch_sum: Tensor) -> float:
    return float((stage_output - fork.double() - branch_sum).norm() / stage_output.norm().clamp_min(1e-300))


def identity_obstacle(block: object) -> str:
    """What keeps a unit that does not change the shape from being x + F(x); empty where it is."""
    assert isinstance(block, ResidualBlock)
    if block.merge is None:
        return "there is no shortcut"
    if not block.merge.is_plain_sum:
        return "the shortcut is changed before the addition"
    if block.post_names:
        ops = " ".join("norm" if name.startswith("bn") else name.rstrip("0123456789") for name in block.post_names)
        return f"after the addition comes {ops}"
    if block.spec.shortcut != "identity":
        return f"the shortcut is {block.spec.shortcut}"
    return ""


def _telescope_verdict(exact_errors: list[float], inexact_errors: list[float]) -> str:
    holds = bool(exact_errors) and max(exact_errors) <= ROUNDING_TOLERANCE
    if not exact_errors and not inexact_errors:
        return "no unit keeps its shape"
    if not inexact_errors or max(inexact_errors) <= ROUNDING_TOLERANCE:
        return "holds" if holds or not exact_errors else "fails"
    return "holds in part" if holds else "fails"


@dataclass(frozen=True)
class OrderOptions:
    """`statistics` of the norms: `auto` is the batch's before any training, else the running ones."""

    statistics: str = "auto"


@dataclass(frozen=True)
class OrderBlock:
    """One run of a unit, a its shortcut and b its branch, y = after(a + b).

    `superposition` = ||after(a + b) - after(a) - after(b)|| / ||after(a + b)||, 0 where nothing comes after the
    addition. Of the branch b: `branch_min`, `branch_mean` and the share below zero. Of y: `mean`, `variance`, and
    `growth` of the variance over that of the stage's first output.
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
    """The units first to last, the order and its sentence, and the extremes over all units."""

    model: str
    step: int | None
    order: str
    sentence: str
    blocks: tuple[OrderBlock, ...]
    max_superposition_error: float
    min_branch: float
    max_growth: float


def analyze_orders(target: AnalysisTarget, options: OrderOptions) -> OrderResult:
    """How far the words after the addition are from passing a sum on, what branches add, and how the signal grows.

    BN after the addition normalises and rectifies the shortcut's signal too: after(a + b) is not after(a) + after(b).
    ReLU before the addition makes every branch non-negative, so the signal only grows (He et al. 2016,
    arXiv:1603.05027, Sec. 4.1). With statistics of the batch each term is normalised by its own; with running ones
    their offsets count too. Raises ValueError for a module of others that no network of the zoo equals.
    """
    network = as_residual_network(target)
    with torch.no_grad():
        calls = collect_block_calls(network, target.images, options.statistics)
        blocks = tuple(block for stage in group_by_stage(calls) for block in _order_blocks(stage))
    return OrderResult(
        target.name,
        target.step,
        network.arch.order,
        get_order(network.arch.order).layout,
        blocks,
        max(block.superposition_error for block in blocks),
        min(block.branch_min for block in blocks),
        max(block.growth for block in blocks),
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
    superposition_error = float((parts.output - separate_sum).norm() / parts.output.norm().clamp_min(1e-30))
    branch, variance = parts.branch, _output_variance(call)
    return OrderBlock(
        call.name,
        call.label,
        superposition_error,
        float(branch.min()),
        float(branch.mean()),
        float((branch < 0).float().mean()),
        float(call.output.mean()),
        variance,
        variance / first_variance if first_variance else 0.0,
    )


def _output_variance(call: BlockCall) -> float:
    return float(call.output.double().var(correction=0))
