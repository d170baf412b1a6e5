"""The learning rate at every step, against torch's own schedulers and closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from reslab.spec.recipe import Schedule
from reslab.training.optim.lr_schedule import Plateau, idle_milestones, rate_factor

TOTAL = 57
LR = 0.3


def ours(schedule: Schedule, total: int = TOTAL, steps_per_epoch: int = 10) -> list[float]:
    return [LR * rate_factor(schedule, step, total, steps_per_epoch) for step in range(total)]


def torchs(make: Callable[[torch.optim.Optimizer], Any], total: int = TOTAL) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler, rates = make(optimizer), []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_steps_is_multi_step_lr() -> None:
    schedule = Schedule("steps", milestones=("20 steps", "4 epochs"), gamma=0.1)
    assert ours(schedule) == pytest.approx(torchs(lambda o: lr_scheduler.MultiStepLR(o, [20, 40], 0.1)), rel=1e-12)


def test_cosine_is_cosine_annealing_lr() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1 * LR))
    assert ours(Schedule("cosine", end=0.1)) == pytest.approx(expected, rel=1e-9)


def test_linear_is_linear_lr() -> None:
    expected = torchs(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, TOTAL))
    assert ours(Schedule("linear", end=0.2)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("total", [10, 57, 100])
def test_one_cycle_is_one_cycle_lr(total: int) -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.OneCycleLR(optimizer, LR, total_steps=total, div_factor=25, final_div_factor=1e4)

    # torch's scheduler makes total_steps - 1 steps after the first rate.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler, expected = make(optimizer), [LR / 25]
    for _ in range(total - 1):
        optimizer.step()
        scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])
    schedule = Schedule("one-cycle", start=1 / 25, peak=0.3, end=1 / 25 / 1e4)
    assert ours(schedule, total) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.9])
def test_poly_is_polynomial_lr(power: float) -> None:
    expected = torchs(lambda o: lr_scheduler.PolynomialLR(o, TOTAL, power))
    assert ours(Schedule("poly", power=power)) == pytest.approx(expected, rel=1e-9)


def test_plateau_is_reduce_lr_on_plateau() -> None:
    errors = [0.9, 0.5, 0.5, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.39, 0.5, 0.5, 0.38, 0.38, 0.38, 0.38]
    schedule = Schedule("plateau", gamma=0.2, patience=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    # torch's patience is how many evaluations without a fall it forgives.
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=2, threshold=0.0)
    plateau, found, expected = Plateau(schedule), [], []
    for epoch, error in enumerate(errors, 1):
        scheduler.step(error)
        plateau.see(10 * epoch, error)
        expected.append(optimizer.param_groups[0]["lr"])
        found.append(LR * rate_factor(schedule, 10 * epoch, 200, 10, dropped=plateau.dropped))
    assert found == pytest.approx(expected, rel=1e-12)
    assert plateau.dropped == [80, 170]


def test_other_schedules_see_no_plateau() -> None:
    plateau = Plateau(Schedule())
    assert not any(plateau.see(step, 1.0) for step in range(20))
    assert plateau.state() is None


def test_constant_is_constant() -> None:
    assert ours(Schedule()) == [LR] * TOTAL


def test_warmup_rises_on_a_line_and_then_the_clock_starts() -> None:
    rates = ours(Schedule("cosine", warmup="1 epoch", start=0.1))
    assert rates[:10] == pytest.approx([LR * (0.1 + 0.9 * step / 10) for step in range(10)])
    rest = [LR * (1 + math.cos(math.pi * (step - 10) / (TOTAL - 10))) / 2 for step in range(10, TOTAL)]
    assert rates[10:] == pytest.approx(rest)


def test_warmup_beside_steps_leaves_the_milestones_where_they_are() -> None:
    rates = ours(Schedule("steps", warmup="5 steps", milestones=("20 steps",)))
    assert rates[19] == pytest.approx(LR)
    assert rates[20] == pytest.approx(LR / 10)


def test_the_shortest_runs_have_a_rate() -> None:
    for name in ("constant", "cosine", "linear", "one-cycle", "poly", "plateau"):
        for total in (1, 2, 3):
            assert all(0 <= rate <= LR for rate in ours(Schedule(name), total))


def test_milestones_after_the_end_are_named() -> None:
    schedule = Schedule("steps", milestones=("20 steps", "32k steps"))
    assert idle_milestones(schedule, 100, 10) == ["32k steps"]
    assert idle_milestones(Schedule("cosine"), 100, 10) == []
