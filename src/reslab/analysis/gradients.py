"""Gradient flow: the norm of the loss gradient at every block, and its two terms through shortcuts and branches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.layers import (
    BlockCall,
    check_memory,
    group_by_stage,
    record_block_calls,
    shortcut_gradients,
    with_statistics,
)
from reslab.analysis.target import AnalysisTarget, BatchLoss, as_block_network, cross_entropy_loss
from reslab.nn.block import ResidualBlock

# A factor of one hundred. At initialization ResNets of 20 to 110 layers stay within it, plain networks up to about 30.
DECADES_LIMIT = 2.0
_DEPTH_RULE = (
    f"Vanishing: D < -{DECADES_LIMIT:g}. Exploding: D > {DECADES_LIMIT:g}. Healthy: in between, within a factor of "
    f"{10**DECADES_LIMIT:g}."
)
SLOPE_RULE = (
    "A straight line is fitted to log10 ||dL/dx_l|| over the blocks l = 1 ... N; D is how many powers of ten it rises "
    f"from the last block back to the first. {_DEPTH_RULE} A norm of zero is vanishing, one that is infinite or NaN "
    "exploding."
)
SCALING_RULE = (
    "P is the product of the shortcut factors from the first block to the last, over the blocks that keep their shape, "
    f"and D = log10 |P|. {_DEPTH_RULE}"
)


class DepthVerdict(StrEnum):
    """The change of a gradient over the depth of a network, the same for measured norms and for products of factors."""

    VANISHING = "vanishing"
    EXPLODING = "exploding"
    HEALTHY = "healthy"
    TOO_FEW_BLOCKS = "too few blocks"


def depth_verdict(decades: float) -> DepthVerdict:
    """Return the verdict on a change of D = `decades` powers of ten from the last block back to the first.

    Vanishing below -`DECADES_LIMIT`, exploding above `DECADES_LIMIT` and for NaN, healthy in between.
    """
    if decades < -DECADES_LIMIT:
        return DepthVerdict.VANISHING
    return DepthVerdict.HEALTHY if decades <= DECADES_LIMIT else DepthVerdict.EXPLODING


@dataclass(frozen=True)
class LogSlope:
    """The least-squares line through log10 of norms: `decades` from the last block back to the first.

    `factor_per_block` is the same slope as a factor, `rule` the definition of the verdict in words.
    """

    decades: float
    factor_per_block: float
    verdict: DepthVerdict
    rule: str = SLOPE_RULE


def fit_log_slope(norms: Sequence[float]) -> LogSlope:
    """Fit the change of norms, given first block to last, on the way back."""
    if not all(math.isfinite(norm) for norm in norms):
        return LogSlope(math.inf, math.inf, DepthVerdict.EXPLODING)
    if not all(norm > 0 for norm in norms):
        return LogSlope(-math.inf, 0.0, DepthVerdict.VANISHING)
    if len(norms) < 2:
        return LogSlope(0.0, 1.0, DepthVerdict.TOO_FEW_BLOCKS)
    log_norms = [math.log10(norm) for norm in norms]
    mean_index, mean_log = (len(log_norms) - 1) / 2, sum(log_norms) / len(log_norms)
    covariance = sum((index - mean_index) * (value - mean_log) for index, value in enumerate(log_norms))
    backward_slope = -covariance / sum((index - mean_index) ** 2 for index in range(len(log_norms)))
    decades = backward_slope * (len(log_norms) - 1)
    return LogSlope(decades, 10**backward_slope, depth_verdict(decades))


@dataclass(frozen=True)
class GradientOptions:
    """The `statistics` that norms use: `batch` as in training, `running` as in eval mode."""

    statistics: str = "batch"


@dataclass(frozen=True)
class BlockGradient:
    """The gradient at one call of a block with input x_l: `input_norm` = ||dL/dx_l||, `weight_norm` = ||dL/dW_l||.

    W_l are the weights of its convolutions and linear layers; for a shared block, over all its calls.

    dL/dx_l = shortcut term + branch term (He et al. 2016, Eq. 5): `shortcut_norm` is the norm of what returns from the
    end of the stage through shortcuts alone, `branch_norm` that of the rest, `cosine` the one between the two.
    `shortcut_gain` and `branch_gain` are the factors by which the two paths of this one block change the gradient norm.
    `plain_product` is the norm that the product of the branch gains from here to the last block predicts,
    `residual_product` the one that sqrt(shortcut_gain^2 + branch_gain^2) predicts, which holds where the two paths are
    orthogonal. All of these are None for a module that no network of the zoo equals.
    """

    name: str
    label: str
    input_norm: float
    weight_norm: float
    shortcut_norm: float | None = None
    branch_norm: float | None = None
    cosine: float | None = None
    shortcut_gain: float | None = None
    branch_gain: float | None = None
    plain_product: float | None = None
    residual_product: float | None = None


@dataclass(frozen=True)
class GradientResult:
    """The gradients of a network's blocks, first to last, the change of their norms on the way back, and the loss."""

    model: str
    step: int | None
    loss: float
    blocks: tuple[BlockGradient, ...]
    slope: LogSlope
    is_residual: bool


def analyze_gradients(target: AnalysisTarget, options: GradientOptions) -> GradientResult:
    """Measure the gradient of the task's loss at each block's input and weights, and its two terms.

    He et al. 2016, arXiv:1603.05027, Eq. 5; He et al. 2015, Sec. 4.1. Euclidean norms over the whole batch, on a copy
    of the network, with dropout and stochastic depth off. Raises ValueError for a network without blocks.
    """
    model = with_statistics(_residual_network_or_model(target), options.statistics)
    loss, calls = backward_with_block_gradients(model, target.images, target.labels, target.batch_loss)
    blocks = _decompose_gradients(calls) if _all_residual(calls) else [_block_gradient(call) for call in calls]
    return GradientResult(
        model=target.name,
        step=target.step,
        loss=float(loss),
        blocks=tuple(blocks),
        slope=fit_log_slope([block.input_norm for block in blocks]),
        is_residual=any(block.shortcut_gain for block in blocks),
    )


def _residual_network_or_model(target: AnalysisTarget) -> nn.Module:
    """Return a network whose blocks split into two paths, or else the model itself, which has norms but no terms."""
    try:
        return as_block_network(target)
    except ValueError:
        return target.model


def block_gradient_norms(network: nn.Module, x: Tensor, y: Tensor) -> list[tuple[str, float]]:
    """Return (block, ||dL/dx_l||) for every block l, first to last.

    x_l is the block's input, L the mean cross-entropy of the batch x float32 (N, C, H, W), y int64 (N,); the norm is
    the Euclidean one over the whole batch. A copy of the network computes as in training (batch statistics, nothing
    random), so the network itself does not change. A shared block has one entry a call. He et al. 2015,
    arXiv:1512.03385, Sec. 4.1, discuss these norms for plain networks.
    """
    _, calls = backward_with_block_gradients(with_statistics(network, "batch"), x, y)
    return [(call.name, _norm(grad_or_zeros(call.input))) for call in calls]


def backward_with_block_gradients(
    model: nn.Module, x: Tensor, y: Any, loss_fn: BatchLoss = cross_entropy_loss
) -> tuple[Tensor, list[BlockCall]]:
    """Return the loss and the block calls; their inputs and outputs, and all parameters, hold their `grad`."""
    check_memory(model, x)
    model.zero_grad()
    for parameter in model.parameters():
        parameter.requires_grad_()
    with torch.enable_grad(), record_block_calls(model) as calls:
        loss = loss_fn(model, x.detach().clone().requires_grad_(), y)
        for call in calls:
            call.input.retain_grad()
            call.output.retain_grad()
        loss.backward()
    return loss.detach(), calls


def grad_or_zeros(tensor: Tensor) -> Tensor:
    """Return the gradient that `backward` left at a tensor, or zeros if the loss does not depend on it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _all_residual(calls: Sequence[BlockCall]) -> bool:
    return all(isinstance(call.block, ResidualBlock) for call in calls)


def _decompose_gradients(calls: list[BlockCall]) -> list[BlockGradient]:
    """Return the terms and gains of every block, computed from the last block back to the first."""
    gradients: list[BlockGradient] = []
    plain_product = residual_product = _norm(grad_or_zeros(calls[-1].output))
    for stage in reversed(group_by_stage(calls)):
        # The gradient that travels back from the stage's end through shortcuts only.
        shortcut_grad = grad_or_zeros(stage[-1].output)
        for call in reversed(stage):
            assert isinstance(call.block, ResidualBlock)
            output_grad, input_grad = grad_or_zeros(call.output), grad_or_zeros(call.input)
            shortcut_grad, block_shortcut_grad = shortcut_gradients(call.block, call.input, shortcut_grad, output_grad)
            shortcut_gain = _norm_ratio(block_shortcut_grad, output_grad)
            branch_gain = _norm_ratio(input_grad - block_shortcut_grad, output_grad)
            plain_product *= branch_gain
            residual_product *= (shortcut_gain**2 + branch_gain**2) ** 0.5
            branch_grad = input_grad - shortcut_grad
            gradients.append(
                _block_gradient(
                    call,
                    shortcut_norm=_norm(shortcut_grad),
                    branch_norm=_norm(branch_grad),
                    cosine=_cosine(shortcut_grad, branch_grad),
                    shortcut_gain=shortcut_gain,
                    branch_gain=branch_gain,
                    plain_product=plain_product,
                    residual_product=residual_product,
                )
            )
    return gradients[::-1]


def _block_gradient(call: BlockCall, **terms: float | None) -> BlockGradient:
    input_norm, weight_norm = _norm(grad_or_zeros(call.input)), _weight_grad_norm(call.block)
    return BlockGradient(call.name, call.label, input_norm, weight_norm, **terms)


def _norm(tensor: Tensor) -> float:
    return float(tensor.norm())


def _norm_ratio(numerator: Tensor, denominator: Tensor) -> float:
    denominator_norm = _norm(denominator)
    return _norm(numerator) / denominator_norm if denominator_norm else 0.0


def _cosine(a: Tensor, b: Tensor) -> float | None:
    norm_product = _norm(a) * _norm(b)
    return float((a * b).sum()) / norm_product if norm_product else None


def _weight_grad_norm(block: nn.Module) -> float:
    squared_norms = [
        float(parameter.grad.square().sum())
        for parameter in block.parameters()
        if parameter.grad is not None and parameter.ndim > 1
    ]
    return float(sum(squared_norms)) ** 0.5
