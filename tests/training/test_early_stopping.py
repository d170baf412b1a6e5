"""Early stopping: when a run ends, why, and that one which was interrupted ends there too.

The watch of a series of evaluations.
"""

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.spec.config import override
from reslab.spec.recipe import EarlyStoppingConfig, Recipe
from reslab.spec.task import TASKS
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.early_stopping import EarlyStopping, PatienceCounter, StopReason
from reslab.training.run import Run
from reslab.training.tasks.classification import ClassificationEvaluation
from reslab.training.train import train

Timeless = Callable[[Run], list[dict[str, Any]]]
STEPS = 17
# A rate that undoes more than it learns: the accuracy rises once or twice and then not for two epochs.
RESTLESS = {
    "early_stopping.patience": "2 epochs",
    "optimizer.lr": 3.0,
    "schedule.name": "constant",
    "schedule.warmup": "0 steps",
}


def evaluation_of(top1: float, loss: float = 1.0) -> ClassificationEvaluation:
    result = object.__new__(ClassificationEvaluation)
    for name, value in {
        "num_correct": round(1000 * top1),
        "num_samples": 1000,
        "loss": loss,
        "num_correct_top5": None,
        "added_metrics": {},
    }.items():
        object.__setattr__(result, name, value)
    return result


def ends(recipe: Recipe, scores: list[tuple[float, float]]) -> int | None:
    """The evaluation at which the run ends."""
    stopping = EarlyStopping(recipe, TASKS["classification"], STEPS)
    for number, (top1, loss) in enumerate(scores, 1):
        stopping.update(number * STEPS, evaluation_of(top1, loss))
        if stopping.should_stop:
            return number
    return None


def test_it_ends_when_the_patience_has_passed_without_a_better_score() -> None:
    recipe = Recipe("", "", early_stopping=EarlyStoppingConfig("2 epochs"))
    scores = [(0.5, 3.0), (0.6, 2.0), (0.6, 1.0), (0.55, 0.5), (0.7, 0.4)]
    assert ends(recipe, scores) == 4
    assert ends(replace(recipe, early_stopping=EarlyStoppingConfig("2 epochs", "loss")), scores) is None
    assert ends(replace(recipe, early_stopping=EarlyStoppingConfig("3 epochs")), scores) is None
    assert (
        ends(replace(recipe, early_stopping=EarlyStoppingConfig("20 steps")), scores) == 4
    )  # 20 steps are past at the second epoch's end
    assert ends(replace(recipe, early_stopping=EarlyStoppingConfig("0 epochs")), scores * 9) is None
    # With an evaluation every second epoch, two epochs are one evaluation, and three are rounded up to two.
    assert ends(replace(recipe, eval_interval=2), scores) == 3
    assert ends(replace(recipe, eval_interval=2, early_stopping=EarlyStoppingConfig("3 epochs")), scores) == 4


def test_the_reason_is_a_kind_with_a_text() -> None:
    stopping = EarlyStopping(
        Recipe("", "", early_stopping=EarlyStoppingConfig("1 epoch")), TASKS["classification"], STEPS
    )
    assert stopping.stop_reason is StopReason.COMPLETED
    assert stopping.describe(34, 34) == "completed all 34 steps"
    stopping.update(17, evaluation_of(0.5))
    stopping.update(34, evaluation_of(0.5))
    assert stopping.stop_reason is StopReason.EARLY_STOPPING
    assert stopping.describe(34, 340) == (
        "stopped early after step 34 of 340: the accuracy on the validation split was best after step 17 "
        "and did not improve in 1 evaluation since"
    )


@pytest.fixture(scope="module")
def restless(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Run, list[str]]:
    messages: list[str] = []
    options = {**tiny, "overrides": {**tiny["overrides"], **RESTLESS}, "epochs": 30, "seed": 3, "val_fraction": 0.2}
    options["on_log"] = lambda line: messages.append(line.get("text", ""))
    return options, train(output=tmp_path_factory.mktemp("restless") / "run", **options), messages


def test_a_run_that_stopped_early_reports_it_and_keeps_its_best(
    restless: tuple[dict[str, Any], Run, list[str]],
) -> None:
    _, run, messages = restless
    assert run.result is not None
    assert run.result["steps"] < 30 * STEPS
    assert (run.result["stop_reason"], run.result["stop_step"]) == ("early_stopping", run.result["steps"])
    assert run.result["stop_text"].startswith(f"stopped early after step {run.result['steps']} of {30 * STEPS}: ")
    assert run.result["stop_text"] in messages
    top1 = [line["top1"] for line in run.log.records() if line["kind"] == "eval"]
    best = len(top1) - 2
    assert max(top1) == top1[best - 1] > max(top1[: best - 1], default=0.0)
    assert (run.result["selection"], run.result["best_step"]) == ("best_val", best * STEPS)


def test_one_that_was_interrupted_ends_where_the_uninterrupted_one_does(
    restless: tuple[dict[str, Any], Run, list[str]],
    tmp_path: Path,
    timeless: Timeless,
    weights_hash: Callable[[Run], str],
    lines: list[dict[str, Any]],
) -> None:
    expected, first, _ = restless
    assert first.result is not None
    at = first.result["steps"] - 5  # the first of the evaluations in vain is behind it

    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        if step == at:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    with pytest.raises(TrainingInterrupted):
        train(output=tmp_path / "run", on_step_end=interrupt, hook_every_steps=at, **expected)
    run = train(output=tmp_path / "run", resume=True, **expected)
    assert weights_hash(run) == weights_hash(first)
    assert [line for line in timeless(run) if line["kind"] != "step_end"] == timeless(first)
    assert run.result is not None
    assert (run.result["stop_reason"], run.result["stop_text"]) == ("early_stopping", first.result["stop_text"])
    # Killed after its last state: what is left is to be written, not to be learned.
    run.update(result=None)
    run.weights_path.unlink()
    again = train(output=run.path, resume=True, **{**expected, "on_log": lines.append})
    assert weights_hash(again) == weights_hash(first)
    state = load_train_checkpoint(run.path / "checkpoint")
    assert state is not None
    assert state.step == first.result["steps"]
    assert f"nothing to do: {first.result['stop_text']}" in [line.get("text") for line in lines]


def test_it_never_looks_at_the_test_set(tiny: dict[str, Any], tmp_path: Path) -> None:
    options = {**tiny, "overrides": {"early_stopping.patience": "2 epochs"}}
    with pytest.raises(ValueError, match=r"a validation split for early stopping; got: digits.*val-fraction"):
        train(output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"early_stopping.patience": "3"}, "'3 epochs'"),
        ({"early_stopping.patience": "1 epoch", "swa_epochs": 2}, "early_stopping or swa_epochs"),
        ({"early_stopping.metric": "top"}, "top1"),
    ],
)
def test_invalid_values_raise(given: dict[str, Any], messages: str) -> None:
    with pytest.raises(ValueError, match=messages):
        override(Recipe("", ""), given)


def test_it_triggers_after_that_many_evaluations_without_improvement() -> None:
    watch = PatienceCounter(2)
    assert [watch.update(value) for value in (3.0, 2.0, 2.0, 2.5, 2.5)] == [False, False, False, True, True]
    assert watch.best == 2.0


def test_reset_restarts_patience_and_keeps_the_minimum() -> None:
    watch = PatienceCounter(1)
    assert [watch.update(value) for value in (1.0, 1.0)] == [False, True]
    watch.reset()
    assert watch.num_bad == 0
    assert watch.update(1.0)  # still not below the least


def test_what_is_not_a_number_has_not_fallen() -> None:
    watch = PatienceCounter(1)
    assert watch.update(math.nan)


def test_patience_counter_state_round_trips() -> None:
    first, second = PatienceCounter(3), PatienceCounter(3)
    for value in (5.0, 6.0):
        first.update(value)
    second.load_state_dict(first.state_dict())
    assert (
        [first.update(value) for value in (6.0, 6.0)] == [second.update(value) for value in (6.0, 6.0)] == [False, True]
    )
