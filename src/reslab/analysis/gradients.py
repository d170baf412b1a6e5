"""How much of the loss's gradient reaches each unit, and on which ways.

How a measure changes on the way back through the units, and what that is called.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.blocks import UnitRun, as_asked, network_of, stages_of, through_shortcut, unit_runs
from reslab.analysis.progress import check_room
from reslab.analysis.subject import Subject
from reslab.nn.block import Unit

# A hundredfold: ResNets of 20 to 110 layers stay within it at initialisation, plain networks to about 30 layers.
LIMIT = 2.0
RULE = (
    "A straight line is fitted to log10 ||dL/dx_l|| over the units l = 1 ... N; D is how many powers of ten it rises "
    "from the last unit back to the first. Vanishing: D < -2, or a norm is zero. Exploding: D > 2, or a norm is no "
    "finite number. Healthy: between."
)


@dataclass(frozen=True)
class Slope:
    """The least-squares line through log10 of norms: `decades` from last unit to first, `per_unit` the factor a unit,
    the `verdict` (`vanishing`, `exploding`, `healthy`, `too few units`) and its `rule`."""

    decades: float
    per_unit: float
    verdict: str
    rule: str = RULE


def slope_of(norms: Sequence[float]) -> Slope:
    """The change of norms, given first unit to last, on the way back; the verdict follows `RULE`."""
    if not all(math.isfinite(norm) for norm in norms):
        return Slope(math.inf, math.inf, "exploding")
    if not all(norm > 0 for norm in norms):
        return Slope(-math.inf, 0.0, "vanishing")
    if len(norms) < 2:
        return Slope(0.0, 1.0, "too few units")
    logs = [math.log10(norm) for norm in norms]
    middle, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    rise = sum((place - middle) * (value - mean) for place, value in enumerate(logs))
    back = -rise / sum((place - middle) ** 2 for place in range(len(logs)))
    decades = back * (len(logs) - 1)
    return Slope(decades, 10**back, "vanishing" if decades < -LIMIT else "exploding" if decades > LIMIT else "healthy")


@dataclass(frozen=True)
class GradientOptions:
    """`statistics` of the norms: `batch` as in training, `running` as at test."""

    statistics: str = "batch"


@dataclass(frozen=True)
class UnitGradient:
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
    input: float
    weights: float
    direct: float | None = None
    branches: float | None = None
    cosine: float | None = None
    shortcut_gain: float | None = None
    branch_gain: float | None = None
    plain_product: float | None = None
    residual_sum: float | None = None


@dataclass(frozen=True)
class Gradients:
    """The gradients of a network's units, first to last, how their size changes on the way back, and the loss."""

    subject: str
    step: int | None
    loss: float
    units: tuple[UnitGradient, ...]
    slope: Slope
    residual: bool


def ask_gradients(subject: Subject, options: GradientOptions) -> Gradients:
    """The norm of the gradient of the mean cross-entropy at each unit's input and weights, its two terms, a verdict.

    He et al. 2016, arXiv:1603.05027, Eq. 5; He et al. 2015, Sec. 4.1. Euclidean norms over the whole batch, on a copy
    of the network, with nothing drawn (dropout as at test). Raises ValueError for a network without units.
    """
    model = as_asked(_network_or_module(subject), options.statistics)
    loss, runs = backward(model, subject.images, subject.labels)
    inputs = [_norm(gradient_of(run.input)) for run in runs]
    known = all(isinstance(run.unit, Unit) for run in runs)
    units = _split(runs) if known else [UnitGradient(run.name, run.label, 0.0, 0.0) for run in runs]
    told = tuple(
        UnitGradient(**{**vars(unit), "input": norm, "weights": _weights_norm(run.unit)})
        for run, unit, norm in zip(runs, units, inputs, strict=True)
    )
    residual = any(unit.shortcut_gain for unit in told)
    return Gradients(subject.name, subject.step, float(loss), told, slope_of(inputs), residual)


def _network_or_module(subject: Subject) -> nn.Module:
    """The two ways back are told of networks whose units can be taken apart; the norms of any."""
    try:
        return network_of(subject)
    except ValueError:
        return subject.model


def unit_gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[tuple[str, float]]:
    """(unit, ||dL/dx_l||) for every unit l, first to last: x_l is the unit's input, L the batch's mean cross-entropy.

    x float32 (N, C, H, W), y int64 (N,); the norm is the Euclidean one over the whole batch. The network computes as
    in training (batch statistics, nothing drawn), on a copy, so that nothing of it changes. A unit that runs several
    times has one entry a run. He et al. 2015, arXiv:1512.03385, Sec. 4.1, speak of these norms in plain networks.
    """
    _, runs = backward(as_asked(network, "batch"), x, y)
    return [(run.name, _norm(gradient_of(run.input))) for run in runs]


def backward(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, list[UnitRun]]:
    """The loss and the runs of the units; inputs, outputs and parameters hold their gradients in `grad`."""
    check_room(model, x)
    model.zero_grad()
    for parameter in model.parameters():
        parameter.requires_grad_()
    with torch.enable_grad(), unit_runs(model) as runs:
        loss = functional.cross_entropy(model(x.detach().clone().requires_grad_()), y)
        for run in runs:
            run.input.retain_grad()
            run.output.retain_grad()
        loss.backward()
    return loss.detach(), runs


def gradient_of(tensor: Tensor) -> Tensor:
    """The gradient that `backward` left at an input or output; zeros where the loss does not hear it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _split(runs: list[UnitRun]) -> list[UnitGradient]:
    """The two terms of the gradient and the gains, unit by unit from the last to the first."""
    found: list[UnitGradient] = []
    product = summed = _norm(gradient_of(runs[-1].output))
    for stage in reversed(stages_of(runs)):
        direct = gradient_of(stage[-1].output)
        for run in reversed(stage):
            assert isinstance(run.unit, Unit)
            at_output, at_input = gradient_of(run.output), gradient_of(run.input)
            direct, own = through_shortcut(run.unit, run.input, direct, at_output)
            shortcut_gain, branch_gain = _ratio(own, at_output), _ratio(at_input - own, at_output)
            product, summed = product * branch_gain, summed * (shortcut_gain**2 + branch_gain**2) ** 0.5
            terms = (_norm(direct), _norm(at_input - direct), _cosine(direct, at_input - direct))
            gains = (shortcut_gain, branch_gain, product, summed)
            found.append(UnitGradient(run.name, run.label, 0.0, 0.0, *terms, *gains))
    return found[::-1]


def _norm(tensor: Tensor) -> float:
    return float(tensor.norm())


def _ratio(one: Tensor, other: Tensor) -> float:
    below = _norm(other)
    return _norm(one) / below if below else 0.0


def _cosine(one: Tensor, other: Tensor) -> float | None:
    norms = _norm(one) * _norm(other)
    return float((one * other).sum()) / norms if norms else None


def _weights_norm(unit: nn.Module) -> float:
    squares = [
        float(parameter.grad.square().sum())
        for parameter in unit.parameters()
        if parameter.grad is not None and parameter.ndim > 1
    ]
    return float(sum(squares)) ** 0.5
