"""The schedule that divides the rate where the validation error stops falling: seen, saved, resumed, refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from reslab.spec.optim import Schedule
from reslab.training.run import Run
from reslab.training.state import load_state
from reslab.training.train import train

PLATEAU = {"schedule.name": "plateau", "schedule.patience": "1", "schedule.gamma": "0.5", "schedule.warmup": "0 steps"}


@pytest.fixture
def said(tiny: dict[str, Any]) -> dict[str, Any]:
    """A run whose rate of 10 is far too high: its error soon stops falling."""
    settings = {**tiny["settings"], **PLATEAU, "optimizer.lr": "10"}
    return {"settings": settings, "show": tiny["show"], "seed": 3, "epochs": 6}


def test_the_rate_falls_where_the_error_did_not(said: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", val_fraction=0.2, **said)
    lines, least, drops = run.log.lines(), float("inf"), 0
    for line in lines:
        if line["kind"] == "train":
            assert line["lr"] == 10 * 0.5**drops
        if line["kind"] == "eval":
            drops += 1 - line["top1"] >= least
            least = min(least, 1 - line["top1"])
    assert drops >= 1


def test_a_resumed_run_is_the_uninterrupted_one(
    said: dict[str, Any], tmp_path: Path, timeless: Callable[[Run], list[dict[str, Any]]]
) -> None:
    whole = train(output=tmp_path / "whole", val_fraction=0.2, **said)
    state = load_state(tmp_path / "whole" / "state")
    assert state is not None
    assert state.plateau is not None
    first = state.plateau["dropped"][0]

    def fail(step: int, model: nn.Module) -> dict[str, Any]:
        raise KeyError(step)

    with pytest.raises(KeyError):  # just after the rate fell
        train(
            output=tmp_path / "cut",
            val_fraction=0.2,
            probe=fail,
            probe_every_steps=first + 1,
            save_every_seconds=0.0,
            **said,
        )
    kept = load_state(tmp_path / "cut" / "state")
    assert kept is not None
    assert kept.step == first
    again = train(output=tmp_path / "cut", resume=True, show=said["show"])
    assert timeless(again) == timeless(whole)


def test_without_a_validation_split_it_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--val-fraction"):
        train(output=tmp_path / "run", **said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("settings", "told"), [({"patience": 0}, "patience"), ({"power": 0.0}, "power")])
def test_numbers_that_mean_nothing_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Schedule("plateau", **settings)
