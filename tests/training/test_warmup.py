"""A warm-up until the training error is below a bound: where it ends is saved, and a resumed run is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from reslab.spec.optimizer import Optimizer
from reslab.spec.recipe import Recipe, Schedule
from reslab.spec.recipes import RECIPES
from reslab.training.optim.lr_schedule import learning_rate, rate_factor
from reslab.training.run import Run
from reslab.training.state import load_state
from reslab.training.train import train


def test_until_an_error_the_rate_stays_at_the_start() -> None:
    schedule = RECIPES["he2015-cifar-110"].schedule
    rates = [rate_factor(schedule, step, 64000, 390, None) for step in (0, 399, 40000)]
    assert rates == [0.1, 0.1, 0.1]
    rates = [rate_factor(schedule, step, 64000, 390, 400) for step in (399, 400, 31999, 32000, 48000)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.1, 0.01])


def test_a_constant_warm_up_of_a_length() -> None:
    schedule = RECIPES["he2016-cifar"].schedule
    assert [rate_factor(schedule, step, 64000, 390) for step in (0, 399, 400)] == [0.1, 0.1, 1.0]


def test_a_warm_up_from_a_rate_of_its_own() -> None:
    schedule = RECIPES["goyal2017"].schedule
    large = Recipe("x", "test", Optimizer(lr=3.2), schedule, batch=8192)
    rates = [learning_rate(large, step, 900, 10) for step in (0, 25, 50, 300)]
    assert rates == pytest.approx([0.1, 0.1 + 3.1 / 2, 3.2, 0.32])
    small = Recipe("x", "test", Optimizer(lr=0.1), schedule)
    assert [learning_rate(small, step, 900, 10) for step in (0, 25, 50)] == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"warmup": "until error 0%", "warmup_shape": "constant"}, "between 0 and 100"),
        ({"warmup": "until error 80%"}, "constant"),
        ({"warmup": "until 80%"}, "its unit"),
        ({"name": "one-cycle", "warmup": "until error 80%", "warmup_shape": "constant"}, "one-cycle"),
        ({"warmup_shape": "linar"}, "'linear'"),
        ({"start_lr": -1.0}, "at least 0"),
    ],
)
def test_a_warm_up_that_means_nothing_is_refused(schedule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schedule(**schedule)


def test_where_it_ends_is_saved_and_a_resumed_run_is_the_same(
    tiny: dict[str, Any], tmp_path: Path, timeless: Callable[[Run], list[dict[str, Any]]]
) -> None:
    warm = {"schedule.name": "constant", "schedule.warmup": "until error 70%", "schedule.warmup_shape": "constant"}
    settings = {**tiny["settings"], **warm, "schedule.start": "0.1"}
    said: dict[str, Any] = {"settings": settings, "show": tiny["show"], "seed": 3, "epochs": 3}
    whole = train(output=tmp_path / "whole", **said)
    rates = [line["lr"] for line in whole.log.lines() if line["kind"] == "train"]
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.1)
    state = load_state(tmp_path / "whole" / "state")
    assert state is not None
    assert state.warmed in (22, 44, 50)

    def fail(step: int, model: nn.Module) -> dict[str, Any]:
        raise KeyError(step)

    with pytest.raises(KeyError):
        train(output=tmp_path / "cut", probe=fail, probe_every_steps=60, save_every_seconds=0.0, **said)
    again = train(output=tmp_path / "cut", resume=True, show=tiny["show"])
    assert timeless(again) == timeless(whole)
