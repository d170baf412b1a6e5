"""The learning rate at every step, against torch's own schedulers and closed forms.

The schedule that divides the rate where the validation error stops falling: seen, saved, resumed, refused.

A warmup until the training error is below a bound: where it ends is saved, and a resumed run is the same.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.optim.lr_schedule import ReduceOnPlateau, compute_lr, lr_factor, unreached_milestones
from reslab.training.run import Run
from reslab.training.train import train

TOTAL = 57
LR = 0.3


def ours(schedule: ScheduleConfig, total: int = TOTAL, steps_per_epoch: int = 10) -> list[float]:
    return [LR * lr_factor(schedule, step, total, steps_per_epoch) for step in range(total)]


def torchs(make: Callable[[torch.optim.Optimizer], Any], total: int = TOTAL) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler, rates = make(optimizer), []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_steps_is_multi_step_lr() -> None:
    schedule = ScheduleConfig("multistep", milestones=("20 steps", "4 epochs"), gamma=0.1)
    assert ours(schedule) == pytest.approx(torchs(lambda o: lr_scheduler.MultiStepLR(o, [20, 40], 0.1)), rel=1e-12)


def test_cosine_is_cosine_annealing_lr() -> None:
    expected = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1 * LR))
    assert ours(ScheduleConfig("cosine", final_factor=0.1)) == pytest.approx(expected, rel=1e-9)


def test_linear_is_linear_lr() -> None:
    expected = torchs(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, TOTAL))
    assert ours(ScheduleConfig("linear", final_factor=0.2)) == pytest.approx(expected, rel=1e-9)


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
    schedule = ScheduleConfig("one-cycle", warmup_factor=1 / 25, pct_start=0.3, final_factor=1 / 25 / 1e4)
    assert ours(schedule, total) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.9])
def test_poly_is_polynomial_lr(power: float) -> None:
    expected = torchs(lambda o: lr_scheduler.PolynomialLR(o, TOTAL, power))
    assert ours(ScheduleConfig("poly", power=power)) == pytest.approx(expected, rel=1e-9)


def test_plateau_is_reduce_lr_on_plateau() -> None:
    errors = [0.9, 0.5, 0.5, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.39, 0.5, 0.5, 0.38, 0.38, 0.38, 0.38]
    schedule = ScheduleConfig("plateau", gamma=0.2, patience=3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    # torch's patience is how many evaluations without a fall it forgives.
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=2, threshold=0.0)
    plateau, result, expected = ReduceOnPlateau(schedule), [], []
    for epoch, error in enumerate(errors, 1):
        scheduler.step(error)
        plateau.update(10 * epoch, error)
        expected.append(optimizer.param_groups[0]["lr"])
        result.append(LR * lr_factor(schedule, 10 * epoch, 200, 10, drop_steps=plateau.drop_steps))
    assert result == pytest.approx(expected, rel=1e-12)
    assert plateau.drop_steps == [80, 170]


def test_other_schedules_see_no_plateau() -> None:
    plateau = ReduceOnPlateau(ScheduleConfig())
    assert not any(plateau.update(step, 1.0) for step in range(20))
    assert plateau.state_dict() is None


def test_constant_is_constant() -> None:
    assert ours(ScheduleConfig()) == [LR] * TOTAL


def test_warmup_rises_on_a_line_and_then_the_clock_starts() -> None:
    rates = ours(ScheduleConfig("cosine", warmup="1 epoch", warmup_factor=0.1))
    assert rates[:10] == pytest.approx([LR * (0.1 + 0.9 * step / 10) for step in range(10)])
    rest = [LR * (1 + math.cos(math.pi * (step - 10) / (TOTAL - 10))) / 2 for step in range(10, TOTAL)]
    assert rates[10:] == pytest.approx(rest)


def test_warmup_does_not_move_the_milestones() -> None:
    rates = ours(ScheduleConfig("multistep", warmup="5 steps", milestones=("20 steps",)))
    assert rates[19] == pytest.approx(LR)
    assert rates[20] == pytest.approx(LR / 10)


def test_the_shortest_runs_have_a_rate() -> None:
    for name in ("constant", "cosine", "linear", "one-cycle", "poly", "plateau"):
        for total in (1, 2, 3):
            assert all(0 <= rate <= LR for rate in ours(ScheduleConfig(name), total))


def test_milestones_after_the_end_are_named() -> None:
    schedule = ScheduleConfig("multistep", milestones=("20 steps", "32k steps"))
    assert unreached_milestones(schedule, 100, 10) == ["32k steps"]
    assert unreached_milestones(ScheduleConfig("cosine"), 100, 10) == []


PLATEAU = {"schedule.name": "plateau", "schedule.patience": "1", "schedule.gamma": "0.5", "schedule.warmup": "0 steps"}


@pytest.fixture
def options(tiny: dict[str, Any]) -> dict[str, Any]:
    """A run whose rate of 10 is far too high: its error soon stops falling."""
    settings = {**tiny["overrides"], **PLATEAU, "optimizer.lr": "10"}
    return {"overrides": settings, "on_log": tiny["on_log"], "seed": 3, "epochs": 6}


def test_the_rate_falls_where_the_error_did_not(options: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", val_fraction=0.2, **options)
    lines, least, drops = run.log.records(), float("inf"), 0
    for line in lines:
        if line["kind"] == "train":
            assert line["lr"] == 10 * 0.5**drops
        if line["kind"] == "eval":
            drops += 1 - line["top1"] >= least
            least = min(least, 1 - line["top1"])
    assert drops >= 1


def test_a_resumed_run_is_the_uninterrupted_one(
    options: dict[str, Any], tmp_path: Path, timeless: Callable[[Run], list[dict[str, Any]]]
) -> None:
    whole = train(output=tmp_path / "whole", val_fraction=0.2, **options)
    state = load_train_checkpoint(tmp_path / "whole" / "checkpoint")
    assert state is not None
    assert state.plateau is not None
    first = state.plateau["drop_steps"][0]

    def fail(step: int, model: nn.Module) -> dict[str, Any]:
        raise KeyError(step)

    with pytest.raises(KeyError):  # just after the rate fell
        train(
            output=tmp_path / "cut",
            val_fraction=0.2,
            on_step_end=fail,
            hook_every_steps=first + 1,
            save_every_seconds=0.0,
            **options,
        )
    kept = load_train_checkpoint(tmp_path / "cut" / "checkpoint")
    assert kept is not None
    assert kept.step == first + 1  # the step whose hook failed is whole
    again = train(output=tmp_path / "cut", resume=True, on_log=options["on_log"])
    assert timeless(again) == timeless(whole)


def test_without_a_validation_split_it_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--val-fraction"):
        train(output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("settings", "message"), [({"patience": 0}, "patience"), ({"power": 0.0}, "power")])
def test_invalid_numbers_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig("plateau", **settings)


def test_until_an_error_the_rate_stays_at_the_start() -> None:
    schedule = RECIPES["he2015-cifar-110"].schedule
    rates = [lr_factor(schedule, step, 64000, 390, None) for step in (0, 399, 40000)]
    assert rates == [0.1, 0.1, 0.1]
    rates = [lr_factor(schedule, step, 64000, 390, 400) for step in (399, 400, 31999, 32000, 48000)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.1, 0.01])


def test_a_constant_warm_up_of_a_length() -> None:
    schedule = RECIPES["he2016-cifar"].schedule
    assert [lr_factor(schedule, step, 64000, 390) for step in (0, 399, 400)] == [0.1, 0.1, 1.0]


def test_a_warm_up_from_a_rate_of_its_own() -> None:
    schedule = RECIPES["goyal2017"].schedule
    large = Recipe("x", "test", OptimizerConfig(lr=3.2), schedule, batch_size=8192)
    rates = [compute_lr(large, step, 900, 10) for step in (0, 25, 50, 300)]
    assert rates == pytest.approx([0.1, 0.1 + 3.1 / 2, 3.2, 0.32])
    small = Recipe("x", "test", OptimizerConfig(lr=0.1), schedule)
    assert [compute_lr(small, step, 900, 10) for step in (0, 25, 50)] == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ({"warmup": "until error 0%", "warmup_shape": "constant"}, "between 0 and 100"),
        ({"warmup": "until error 80%"}, "constant"),
        ({"warmup": "until 80%"}, "its unit"),
        ({"name": "one-cycle", "warmup": "until error 80%", "warmup_shape": "constant"}, "one-cycle"),
        ({"warmup_shape": "linar"}, "'linear'"),
        ({"warmup_lr": -1.0}, "at least 0"),
    ],
)
def test_a_warm_up_that_means_nothing_is_refused(schedule: dict[str, Any], options: str) -> None:
    with pytest.raises(ValueError, match=options):
        ScheduleConfig(**schedule)


def test_where_it_ends_is_saved_and_a_resumed_run_is_the_same(
    tiny: dict[str, Any], tmp_path: Path, timeless: Callable[[Run], list[dict[str, Any]]]
) -> None:
    warm = {"schedule.name": "constant", "schedule.warmup": "until error 70%", "schedule.warmup_shape": "constant"}
    settings = {**tiny["overrides"], **warm, "schedule.warmup_factor": "0.1"}
    options: dict[str, Any] = {"overrides": settings, "on_log": tiny["on_log"], "seed": 3, "epochs": 3}
    whole = train(output=tmp_path / "whole", **options)
    rates = [line["lr"] for line in whole.log.records() if line["kind"] == "train"]
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.1)
    state = load_train_checkpoint(tmp_path / "whole" / "checkpoint")
    assert state is not None
    assert state.warmup_end_step in (22, 44, 50)

    def fail(step: int, model: nn.Module) -> dict[str, Any]:
        raise KeyError(step)

    with pytest.raises(KeyError):
        train(output=tmp_path / "cut", on_step_end=fail, hook_every_steps=60, save_every_seconds=0.0, **options)
    again = train(output=tmp_path / "cut", resume=True, on_log=tiny["on_log"])
    assert timeless(again) == timeless(whole)
