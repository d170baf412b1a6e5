"""What factors on the shortcuts do to the signal and to the gradient: they multiply from unit to unit."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.analysis.blocks import UnitRun, as_asked
from reslab.analysis.gradients import backward, gradient_of
from reslab.analysis.subject import Subject
from reslab.analysis.unit_parts import network_of, stages_of, take_apart, through_shortcut
from reslab.nn.block import Unit
from reslab.spec.errors import refuse

RULE = (
    "P is the product of the shortcuts' factors from the first unit to the last, over the units that keep their shape. "
    "Exploding: P > 1. Vanishing: P < 1. Kept: P = 1, to one in a thousand."
)


@dataclass(frozen=True)
class ScalingOptions:
    """`statistics` of the norms: `batch` as in training, `running` as at test."""

    statistics: str = "batch"


@dataclass(frozen=True)
class ScaledUnit:
    """One run of a unit. `factor`: what multiplies the shortcut, for a gate the mean of 1 - g; `openness` the mean of
    the gate's sigmoid g, None without a gate. To the stage's end: `product` of the factors, which predicts `direct`,
    the part of the gradient's norm that comes back by the shortcuts alone; `total`, the whole gradient's, both over the
    norm at the stage's end. `carried`: the product of the later factors, which this branch carries. `error`: of
    x_L = product x_l + sum of carried branches, over ||x_L||. None where the unit changes the shape."""

    name: str
    label: str
    factor: float | None
    openness: float | None
    product: float | None
    direct: float | None
    total: float | None
    carried: float
    error: float | None


@dataclass(frozen=True)
class Scaling:
    """The units first to last, P over all of them, and the verdict: `exploding`, `vanishing` or `kept`."""

    subject: str
    step: int | None
    units: tuple[ScaledUnit, ...]
    product: float
    verdict: str
    rule: str = RULE


def ask_scaling(subject: Subject, options: ScalingOptions) -> Scaling:
    """Factors and gates of the shortcuts, what their product predicts and what the gradient does.

    x_(l+1) = k_l x_l + F(x_l) gives x_L = (prod k_i) x_l + sum (prod_(j>i) k_j) F(x_i), and dL/dx_l = dL/dx_L
    (prod k_i + ...): He et al. 2016, arXiv:1603.05027, Eqs. 6 to 8; gates: Sec. 3.1. Raises ValueError for a network
    without shortcuts, and a module of others that no network of the zoo equals.
    """
    network = network_of(subject)
    if all(unit.mix is None for _, unit in network.units()):
        raise refuse("a network with shortcuts", f"{subject.name}, whose mix is none", "mix=add")
    _, runs = backward(as_asked(network, options.statistics), subject.images, subject.labels)
    units = tuple(unit for stage in stages_of(runs) for unit in _of_stage(stage))
    product = math.prod(unit.factor for unit in units if unit.factor is not None)
    verdict = "exploding" if product > 1.001 else "vanishing" if product < 0.999 else "kept"
    return Scaling(subject.name, subject.step, units, product, verdict)


def _of_stage(stage: list[UnitRun]) -> list[ScaledUnit]:
    """From the last unit back: products, the telescoped sum of Eq. 7, the two gradients."""
    at_end, end = gradient_of(stage[-1].output), stage[-1].output.detach().double()
    direct, norm = at_end, float(at_end.norm())
    carrying, carried, total = torch.ones_like(end), 1.0, torch.zeros_like(end)
    found = []
    for run in reversed(stage):
        assert isinstance(run.unit, Unit)
        [direct] = through_shortcut(run.unit, run.input, direct)
        with torch.no_grad():
            total = total + carrying * take_apart(run.unit, run.input).branch.double()
            factor, openness = shortcut_factor(run)
        own = carried
        if factor is not None:
            carrying, carried = carrying * factor, carried * float(factor.mean())
        keeps = factor is not None and not run.unit.before_names
        found.append(
            ScaledUnit(
                run.name,
                run.label,
                None if factor is None else float(factor.mean()),
                openness,
                carried if keeps else None,
                float(direct.norm()) / norm if keeps and norm else None,
                float(gradient_of(run.input).norm()) / norm if keeps and norm else None,
                own,
                _error(end, carrying * run.input.detach().double() + total) if keeps else None,
            )
        )
    return found[::-1]


def shortcut_factor(run: UnitRun) -> tuple[Tensor | None, float | None]:
    """What multiplies the shortcut, and the mean openness of its gate; no factor where the shape is changed."""
    unit = run.unit
    assert isinstance(unit, Unit)
    if unit.mix is None:
        return torch.zeros(()), None
    fork = unit.before(run.input.detach())
    ones, nothing = torch.ones_like(run.output), torch.zeros_like(run.output)
    openness = float(unit.mix.openness(fork).mean()) if hasattr(unit.mix, "gate") else None
    if unit.plan.match != "identity":
        return None, openness
    return unit.mix(fork, ones, nothing).double(), openness


def _error(end: Tensor, told: Tensor) -> float:
    return float((end - told).norm() / end.norm().clamp_min(1e-300))
