"""Training that is stopped or fails: what is saved, what is said, and how it goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.runtime.interrupts import InterruptHandler, TrainingInterrupted
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.evaluate import Evaluator
from reslab.training.loop import TimedLoader
from reslab.training.run import InterimWeightsWarning, Run, interim_weights_path, load, run_weights_path
from reslab.training.train import train

Timeless = Callable[[Run], list[dict[str, Any]]]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_to_stop_is_a_request_with_its_exit_code(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with InterruptHandler() as handler:
        os.kill(os.getpid(), number)
        assert handler.requested
        if number not in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's second signal is no second request
    assert signal.getsignal(number) is before
    assert (handler.signum, TrainingInterrupted("stopped", handler.signum).exit_code) == (number, 128 + number)


def test_an_ignored_sighup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with InterruptHandler() as handler:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not handler.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def stop_at(step: int) -> dict[str, Any]:
    """Return options of a run that gets SIGUSR1 after `step` steps."""

    def interrupt(number: int, model: nn.Module) -> dict[str, Any]:
        if number == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    return {"on_step_end": interrupt, "hook_every_steps": 1, "seed": 3, "val_fraction": 0.2}


@pytest.fixture
def stopped(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A run stopped after 20 of 34 steps; its best weights are those of step 17."""
    with pytest.raises(TrainingInterrupted) as caught:
        train(output=tmp_path / "run", **stop_at(20), **tiny)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    assert "--resume --set 'duration=20 steps'" in str(caught.value)
    assert "best weights so far" in str(caught.value)
    return tmp_path / "run"


def test_an_interrupted_run_gives_its_best_weights_so_far_and_says_so(stopped: Path) -> None:
    run, checkpoint = Run(stopped), load_train_checkpoint(stopped / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.best is not None
    with pytest.warns(InterimWeightsWarning, match=r"not ended.*best weights so far, step 17, .*at step 20.*--resume"):
        network = load(run)
    assert (network.classes, network.preprocess is not None) == (run.classes, True)
    assert all(torch.equal(value, checkpoint.best["weights"][name]) for name, value in network.state_dict().items())
    assert not torch.equal(network.state_dict()["fc.weight"], checkpoint.model["fc.weight"])
    assert read_header(interim_weights_path(run))["best_step"] == 17
    with pytest.raises(ValueError, match="a run that has ended"):
        run_weights_path(run, allow_interim=False)


def test_a_stopped_run_is_ended_now_with_its_best_weights(stopped: Path) -> None:
    with pytest.warns(InterimWeightsWarning):
        best = load(stopped).state_dict()
    run = train(output=stopped, resume=True, overrides={"duration": "20 steps"}, on_log=lambda record: None)
    assert run.result is not None
    assert (run.result["steps"], run.result["stop_reason"]) == (20, "completed")
    # The end of a run is evaluated too, so the weights of step 20 may be better than those of step 17.
    assert run.result["best_step"] in (17, 20)
    assert not interim_weights_path(run).exists()
    if run.result["best_step"] == 17:
        assert all(torch.equal(best[name], value) for name, value in load(run).state_dict().items())


FAULTS = ("evaluation", "hook", "logger", "loader")


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_first_saves_the_last_whole_step(
    fault: str,
    tiny: dict[str, Any],
    digits_run: Run,
    tmp_path: Path,
    timeless: Timeless,
    weights_hash: Callable[[Run], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, options = tmp_path / "run", {**tiny, "seed": 3, "val_fraction": 0.2}

    def fail(*args: Any) -> Any:
        raise FileNotFoundError("images/7.png")

    with monkeypatch.context() as patch:
        if fault == "evaluation":
            patch.setattr(Evaluator, "evaluate", fail)
        elif fault == "hook":
            options |= {"on_step_end": fail, "hook_every_steps": 17}
        elif fault == "logger":
            options |= {"on_log": lambda record: fail() if record["kind"] == "train" else None}
        else:
            batches = TimedLoader.iter_from

            def short(self: TimedLoader, start: int) -> Any:
                source = batches(self, start)
                yield from (next(source) for _ in range(17))
                self.is_step_underway = False
                fail()

            patch.setattr(TimedLoader, "iter_from", short)
        with pytest.raises(FileNotFoundError, match=r"7\.png") as caught:
            train(output=output, **options)
    assert caught.value.__notes__ == [f"the run is saved after step 17 of 34; resume with --output {output} --resume"]
    run = train(output=output, resume=True, on_log=lambda record: None)
    assert weights_hash(run) == weights_hash(digits_run)
    assert timeless(run) == timeless(digits_run)


def test_an_error_within_a_step_keeps_the_checkpoint_before(tiny: dict[str, Any], tmp_path: Path) -> None:
    calls: list[int] = []

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)  # the first is the trial before the folder is made
        if len(calls) == 10:
            raise RuntimeError("no kernel")
        return nn.functional.cross_entropy(outputs, labels)

    with pytest.raises(RuntimeError, match="no kernel") as caught:
        train(output=tmp_path / "run", loss=loss, **tiny)
    saved = load_train_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved is not None
    assert f"saved after step {saved.step} of" in caught.value.__notes__[0]
