"""How much of the loss's gradient reaches each unit."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.slope import Slope, slope_of
from reslab.analysis.subject import Subject
from reslab.analysis.units import UnitRun, as_in_training, unit_runs


@dataclass(frozen=True)
class GradientOptions:
    """`statistics`: `batch` computes as in training, `running` as at test."""

    statistics: str = "batch"


@dataclass(frozen=True)
class UnitGradient:
    """Of one run of a unit: `input` = ||dL/dx_l||, `weights` = ||dL/dW_l|| over its convolutions and linear layers."""

    name: str
    label: str
    input: float
    weights: float


@dataclass(frozen=True)
class Gradients:
    """The gradients of a network's units, first to last, and how their size changes on the way back."""

    subject: str
    step: int | None
    loss: float
    units: tuple[UnitGradient, ...]
    slope: Slope


def ask_gradients(subject: Subject, options: GradientOptions) -> Gradients:
    """The norm of the gradient of the mean cross-entropy at each unit's input and weights, and a verdict."""
    model = _as_asked(subject.model, options)
    loss, runs, gradients = _backward(model, subject.images, subject.labels)
    weights = {run.name: _weights_norm(run.unit) for run in runs}
    units = tuple(
        UnitGradient(run.name, run.label, float(found.norm()), weights[run.name])
        for run, found in zip(runs, gradients, strict=True)
    )
    return Gradients(subject.name, subject.step, float(loss), units, slope_of([unit.input for unit in units]))


def unit_gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[tuple[str, float]]:
    """(unit, ||dL/dx_l||) for every unit l, first to last: x_l is the unit's input, L the batch's mean cross-entropy.

    x float32 (N, C, H, W), y int64 (N,); the norm is the Euclidean one over the whole batch. The network computes as
    in training (batch statistics, nothing drawn), on a copy, so that nothing of it changes. A unit that runs several
    times has one entry a run. He et al. 2015, arXiv:1512.03385, Sec. 4.1, speak of these norms in plain networks.
    """
    _, runs, gradients = _backward(_as_asked(network, GradientOptions()), x, y)
    return [(run.name, float(found.norm())) for run, found in zip(runs, gradients, strict=True)]


def _as_asked(model: nn.Module, options: GradientOptions) -> nn.Module:
    model = copy.deepcopy(model)
    return as_in_training(model) if options.statistics == "batch" else model.eval()


def _backward(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, list[UnitRun], tuple[Tensor, ...]]:
    """The loss, the runs of the units, and the gradient at the input of each; parameters hold theirs in `grad`."""
    model.zero_grad()
    for parameter in model.parameters():
        parameter.requires_grad_()
    with torch.enable_grad(), unit_runs(model) as runs:
        loss = functional.cross_entropy(model(x.detach().clone().requires_grad_()), y)
        for run in runs:
            run.input.retain_grad()
        loss.backward()
    return loss.detach(), runs, tuple(_gradient_of(run) for run in runs)


def _gradient_of(run: UnitRun) -> Tensor:
    found = run.input.grad
    return torch.zeros_like(run.input) if found is None else found


def _weights_norm(unit: nn.Module) -> float:
    squares = [
        float(parameter.grad.square().sum())
        for parameter in unit.parameters()
        if parameter.grad is not None and parameter.ndim > 1
    ]
    return float(sum(squares)) ** 0.5
