"""Training that is stopped or fails: what is saved, what is reported, and how it goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reslab.data.registry import open_dataset
from reslab.deploy.export.export import export
from reslab.deploy.predict import predict
from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors
from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.interrupts import InterruptHandler, TrainingInterrupted
from reslab.training.checkpoint import (
    InterimWeightsWarning,
    interim_weights_path,
    load_run_network,
    load_train_checkpoint,
    run_weights_path,
)
from reslab.training.evaluation.evaluate import Evaluator
from reslab.training.loop import TimedLoader
from reslab.training.options import TrainOptions
from reslab.training.run import Run
from reslab.training.run_logger import RunLogger
from reslab.training.setup import setup_run
from reslab.training.train import train
from reslab.training.trainer import Trainer

Timeless = Callable[[Run], list[dict[str, Any]]]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_to_stop_is_a_request_with_its_exit_code(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # `nohup` would have it ignored
    try:
        with InterruptHandler() as handler:
            os.kill(os.getpid(), number)
            assert handler.requested
            if number not in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's second signal is no second request
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
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


def test_an_interrupted_run_gives_its_best_weights_so_far_with_a_message(stopped: Path) -> None:
    run, checkpoint = Run(stopped), load_train_checkpoint(stopped / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.best is not None
    with pytest.warns(InterimWeightsWarning, match=r"not ended.*best weights so far, step 17, .*at step 20.*--resume"):
        network = load_run_network(run)
    assert (network.classes, network.preprocess is not None) == (run.classes, True)
    assert all(torch.equal(value, checkpoint.best["weights"][name]) for name, value in network.state_dict().items())
    assert not torch.equal(network.state_dict()["fc.weight"], checkpoint.model["fc.weight"])
    assert read_header(interim_weights_path(run))["best_step"] == 17
    with pytest.raises(ValueError, match="a run that has ended"):
        run_weights_path(run, allow_interim=False)


def test_a_stopped_run_is_ended_now_with_its_best_weights(stopped: Path) -> None:
    with pytest.warns(InterimWeightsWarning):
        best = load_run_network(stopped).state_dict()
    run = train(output=stopped, resume=True, overrides={"duration": "20 steps"}, on_log=lambda record: None)
    assert run.result is not None
    assert (run.result["steps"], run.result["stop_reason"]) == (20, "completed")
    # The end of a run is evaluated too, so the weights of step 20 may be better than those of step 17.
    assert run.result["best_step"] in (17, 20)
    assert not interim_weights_path(run).exists()
    if run.result["best_step"] == 17:
        assert all(torch.equal(best[name], value) for name, value in load_run_network(run).state_dict().items())


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


class Failing(nn.Module):
    """A classifier of the digits with a running statistic; its forward fails at call `fails_at` in training mode."""

    def __init__(self, fails_at: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc = nn.BatchNorm2d(1), nn.Linear(64, 10)
        self.fails_at, self.error, self.num_calls = fails_at, error, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.fc(self.norm(x).flatten(1))
        self.num_calls += self.training
        if self.error is not None and self.num_calls == self.fails_at:
            raise self.error  # after the running statistics have moved
        return outputs


SHORT: dict[str, Any] = {
    "epochs": 2, "batch_size": 256, "val_fraction": 0.2, "data": "digits", "on_log": lambda line: None,
}  # fmt: skip


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), AssertionError("the map is square")], ids=["memory", "assertion"]
)
def test_an_error_within_a_step_saves_the_whole_step_before_it(
    error: Exception, tmp_path: Path, timeless: Timeless
) -> None:
    whole = train(Failing(), output=tmp_path / "whole", **SHORT)
    with pytest.raises(type(error)) as caught:
        train(Failing(8, error), output=tmp_path / "run", **SHORT)
    assert "the run is saved after step 7 of" in caught.value.__notes__[-1]
    saved = load_train_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved is not None
    assert (saved.step, int(saved.model["norm.num_batches_tracked"])) == (7, 7)
    run = train(Failing(), output=tmp_path / "run", resume=True, on_log=lambda line: None)
    expected, got = read_tensors(whole.weights_path), read_tensors(run.weights_path)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert timeless(run) == timeless(whole)


def test_an_error_within_the_update_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = torch.optim.SGD.step
    count = []

    def half_a_step(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        count.append(1)
        if len(count) < 6:
            return steps(self, *args, **kwargs)
        self.param_groups[0]["params"][0].data.add_(1.0)
        raise torch.OutOfMemoryError("out of memory")

    half_a_step.hooked = True  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.optim.SGD, "step", torch.optim.Optimizer.profile_hook_step(half_a_step))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(Failing(), output=tmp_path / "run", **{**SHORT, "overrides": {"optimizer.name": "sgd"}})
    saved = load_train_checkpoint(tmp_path / "run" / "checkpoint")
    assert saved is not None
    assert saved.step == 0
    assert "the run is saved after step 0 of" in caught.value.__notes__[-1]


def test_an_error_on_one_of_several_ranks_names_the_step_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank's process was killed: it sends nothing."""
    setup = setup_run(TrainOptions(model=Failing(), data="digits"), tmp_path / "run", ProcessGroup(), 0)
    trainer = Trainer(setup, logger=RunLogger(setup.run, lambda line: None))
    trainer.step, trainer.process_group.world_size, error = 5, 2, RuntimeError("no kernel")
    monkeypatch.setattr(trainer.process_group, "exchange", lambda *args: None)
    trainer._save_after_error(error)
    assert f"the run is saved after step 0 of {trainer.total_steps}" in error.__notes__[0]
    assert load_train_checkpoint(tmp_path / "run" / "checkpoint") is None


def test_predict_and_export_of_an_interrupted_run_use_its_best_weights(stopped: Path) -> None:
    with pytest.warns(InterimWeightsWarning, match="best weights so far, step 17"):
        best = load_run_network(stopped)
    checkpoint = load_train_checkpoint(stopped / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.best is not None
    images = open_dataset("digits").split("test").images[:4]  # type: ignore[attr-defined]
    pixels = [image.permute(1, 2, 0).numpy() for image in images]
    expected = [prediction.classes for prediction in predict(best, pixels)]
    with pytest.warns(InterimWeightsWarning, match="step 17"):
        assert [prediction.classes for prediction in predict(stopped, pixels)] == expected
    best.load_state_dict(checkpoint.model)
    assert [prediction.classes for prediction in predict(best, pixels)] != expected
    with pytest.warns(InterimWeightsWarning, match="step 17"):
        exported = read_tensors(export(stopped, "safetensors").path / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in checkpoint.best["weights"].items())
