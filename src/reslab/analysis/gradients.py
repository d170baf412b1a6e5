"""How much of the loss's gradient reaches each unit, and on which ways.

How a measure changes on the way back through the units, and what that is called.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.blocks import (
    BlockCall,
    as_residual_network,
    group_by_stage,
    record_block_calls,
    shortcut_gradients,
    with_statistics,
)
from reslab.analysis.progress import check_memory
from reslab.analysis.subject import AnalysisTarget
from reslab.nn.block import ResidualBlock

# A hundredfold: ResNets of 20 to 110 layers stay within it at initialisation, plain networks to about 30 layers.
DECADES_LIMIT = 2.0
SLOPE_RULE = (
    "A straight line is fitted to log10 ||dL/dx_l|| over the units l = 1 ... N; D is how many powers of ten it rises "
    "from the last unit back to the first. Vanishing: D < -2, or a norm is zero. Exploding: D > 2, or a norm is no "
    "finite number. Healthy: between."
)


@dataclass(frozen=True)
class LogSlope:
    """The least-squares line through log10 of norms: `decades` from last unit to first, `per_unit` the factor a unit,
    the `verdict` (`vanishing`, `exploding`, `healthy`, `too few units`) and its `rule`."""

    decades: float
    factor_per_block: float
    verdict: str
    rule: str = SLOPE_RULE


def fit_log_slope(norms: Sequence[float]) -> LogSlope:
    """The change of norms, given first unit to last, on the way back; the verdict follows `RULE`."""
    if not all(math.isfinite(norm) for norm in norms):
        return LogSlope(math.inf, math.inf, "exploding")
    if not all(norm > 0 for norm in norms):
        return LogSlope(-math.inf, 0.0, "vanishing")
    if len(norms) < 2:
        return LogSlope(0.0, 1.0, "too few units")
    log_norms = [math.log10(norm) for norm in norms]
    mean_index, mean_log = (len(log_norms) - 1) / 2, sum(log_norms) / len(log_norms)
    covariance = sum((index - mean_index) * (value - mean_log) for index, value in enumerate(log_norms))
    backward_slope = -covariance / sum((index - mean_index) ** 2 for index in range(len(log_norms)))
    decades = backward_slope * (len(log_norms) - 1)
    return LogSlope(
        decades,
        10**backward_slope,
        "vanishing" if decades < -DECADES_LIMIT else "exploding" if decades > DECADES_LIMIT else "healthy",
    )


@dataclass(frozen=True)
class GradientOptions:
    """`statistics` of the norms: `batch` as in training, `running` as at test."""

    statistics: str = "batch"


@dataclass(frozen=True)
class BlockGradient:
    """One run of a unit, x_l its input: `input` = ||dL/dx_l||, `weights` = ||dL/dW_l|| of its convolutions and linear
    layers (of all runs together, where it runs several times).

    dL/dx_l = direct + rest, the two terms of He et al. 2016, Eq. 5: `direct` = the norm of what comes from the stage's
    end by the shortcuts alone, `branches` = that of the rest, `cosine` between the two. `shortcut_gain` and
    `branch_gain`: by what factor either way of this one unit changes the gradient's norm. `plain_product`: the norm
    that the product of branch gains from here to the last unit gives; `residual_sum`: the one of
    sqrt(shortcut_gain^2 + branch_gain^2), which holds where the two ways are at right angles. None of a module that no
    network of the zoo equals.
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
    """The gradients of a network's units, first to last, how their size changes on the way back, and the loss."""

    model: str
    step: int | None
    loss: float
    blocks: tuple[BlockGradient, ...]
    slope: LogSlope
    is_residual: bool


def analyze_gradients(target: AnalysisTarget, options: GradientOptions) -> GradientResult:
    """The norm of the gradient of the mean cross-entropy at each unit's input and weights, its two terms, a verdict.

    He et al. 2016, arXiv:1603.05027, Eq. 5; He et al. 2015, Sec. 4.1. Euclidean norms over the whole batch, on a copy
    of the network, with nothing drawn (dropout as at test). Raises ValueError for a network without units.
    """
    model = with_statistics(_residual_network_or_model(target), options.statistics)
    loss, calls = backward_with_block_gradients(model, target.images, target.labels)
    input_norms = [_norm(grad_or_zeros(call.input)) for call in calls]
    all_residual = all(isinstance(call.block, ResidualBlock) for call in calls)
    blocks = (
        _decompose_gradients(calls)
        if all_residual
        else [BlockGradient(call.name, call.label, 0.0, 0.0) for call in calls]
    )
    gradients = tuple(
        BlockGradient(**{**vars(block), "input_norm": norm, "weight_norm": _weight_grad_norm(call.block)})
        for call, block, norm in zip(calls, blocks, input_norms, strict=True)
    )
    is_residual = any(block.shortcut_gain for block in gradients)
    return GradientResult(target.name, target.step, float(loss), gradients, fit_log_slope(input_norms), is_residual)


def _residual_network_or_model(target: AnalysisTarget) -> nn.Module:
    """The two ways back are told of networks whose units can be taken apart; the norms of any."""
    try:
        return as_residual_network(target)
    except ValueError:
        return target.model


def block_gradient_norms(network: nn.Module, x: Tensor, y: Tensor) -> list[tuple[str, float]]:
    """(unit, ||dL/dx_l||) for every unit l, first to last: x_l is the unit's input, L the batch's mean cross-entropy.

    x float32 (N, C, H, W), y int64 (N,); the norm is the Euclidean one over the whole batch. The network computes as
    in training (batch statistics, nothing drawn), on a copy, so that nothing of it changes. A unit that runs several
    times has one entry a run. He et al. 2015, arXiv:1512.03385, Sec. 4.1, speak of these norms in plain networks.
    """
    _, calls = backward_with_block_gradients(with_statistics(network, "batch"), x, y)
    return [(call.name, _norm(grad_or_zeros(call.input))) for call in calls]


def backward_with_block_gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, list[BlockCall]]:
    """The loss and the runs of the units; inputs, outputs and parameters hold their gradients in `grad`."""
    check_memory(model, x)
    model.zero_grad()
    for parameter in model.parameters():
        parameter.requires_grad_()
    with torch.enable_grad(), record_block_calls(model) as calls:
        loss = functional.cross_entropy(model(x.detach().clone().requires_grad_()), y)
        for call in calls:
            call.input.retain_grad()
            call.output.retain_grad()
        loss.backward()
    return loss.detach(), calls


def grad_or_zeros(tensor: Tensor) -> Tensor:
    """The gradient that `backward` left at an input or output; zeros where the loss does not hear it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _decompose_gradients(calls: list[BlockCall]) -> list[BlockGradient]:
    """The two terms of the gradient and the gains, unit by unit from the last to the first."""
    gradients: list[BlockGradient] = []
    plain_product = residual_product = _norm(grad_or_zeros(calls[-1].output))
    for stage in reversed(group_by_stage(calls)):
        shortcut_grad = grad_or_zeros(stage[-1].output)
        for call in reversed(stage):
            assert isinstance(call.block, ResidualBlock)
            output_grad, input_grad = grad_or_zeros(call.output), grad_or_zeros(call.input)
            shortcut_grad, block_shortcut_grad = shortcut_gradients(call.block, call.input, shortcut_grad, output_grad)
            shortcut_gain, branch_gain = (
                _norm_ratio(block_shortcut_grad, output_grad),
                _norm_ratio(input_grad - block_shortcut_grad, output_grad),
            )
            plain_product, residual_product = (
                plain_product * branch_gain,
                residual_product * (shortcut_gain**2 + branch_gain**2) ** 0.5,
            )
            terms = (
                _norm(shortcut_grad),
                _norm(input_grad - shortcut_grad),
                _cosine(shortcut_grad, input_grad - shortcut_grad),
            )
            gains = (shortcut_gain, branch_gain, plain_product, residual_product)
            gradients.append(BlockGradient(call.name, call.label, 0.0, 0.0, *terms, *gains))
    return gradients[::-1]


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
