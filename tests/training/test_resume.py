"""Resuming: a run killed at any moment equals the uninterrupted one bit for bit; contradicting options are refused."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.interrupts import InterruptHandler, TrainingInterrupted
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.options import TrainOptions
from reslab.training.resume import conflict_error, reopen_run, resume_run
from reslab.training.run import Run
from reslab.training.train import train

Timeless = Callable[[Run], list[dict[str, Any]]]
SRC = Path(__file__).parents[2] / "src"
KILLED = """
import os, signal, sys
from reslab.training.train import train
def die(step, model):
    if step == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return {{}}
probe = {{"on_step_end": die, "hook_every_steps": 1}} if {at} else {{}}
train(output={output!r}, overrides={settings!r}, epochs=2, seed=3, val_fraction=0.2, on_log=lambda line: None,
      device="cpu", save_every_seconds=0.0, resume={resume}, **probe)
"""


def start(output: Path, settings: dict[str, str], at: int, resume: bool = False) -> subprocess.Popen[bytes]:
    code = KILLED.format(output=str(output), settings=settings, at=at, resume=resume)
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def without_probes(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] != "step_end"]


def test_a_run_killed_within_an_epoch_and_resumed_is_the_uninterrupted_one(
    digits_run: Run,
    tiny: dict[str, Any],
    tmp_path: Path,
    timeless: Timeless,
    lines: list[dict[str, Any]],
    weights_hash: Callable[[Run], str],
) -> None:
    output = tmp_path / "killed"
    killed = start(output, tiny["overrides"], at=25)
    assert killed.wait(120) == -signal.SIGKILL
    state = load_train_checkpoint(output / "checkpoint")
    assert state is not None
    assert state.step == 24
    assert not (output / "model.safetensors").exists()
    # Lines after the state, and one the kill cut short.
    Run(output).log.append({"kind": "eval", "step": 25, "loss": 0.0})
    with (output / "log.jsonl").open("a") as log:
        log.write('{"kind": "tra')
    run = train(output=output, resume=True, **{**tiny, "overrides": None, "epochs": None, "on_log": lines.append})
    assert "resumed at step 24 of 34" in [line.get("text") for line in lines]
    assert weights_hash(run) == weights_hash(digits_run)
    assert without_probes(timeless(run)) == timeless(digits_run)


@pytest.mark.soak
def test_ten_kills_at_random_moments(
    digits_run: Run, tiny: dict[str, Any], tmp_path: Path, timeless: Timeless, weights_hash: Callable[[Run], str]
) -> None:
    output, kills, draw = tmp_path / "killed", 0, random.Random(0)
    output.mkdir()
    state = output / "checkpoint" / "checkpoint.pt"
    for _ in range(10):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(output, tiny["overrides"], at=0, resume=True)
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.001)
        time.sleep(draw.random() * 0.15)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    run = train(output=output, resume=True, seed=3, val_fraction=0.2, **tiny)
    assert weights_hash(run) == weights_hash(digits_run)
    assert timeless(run) == timeless(digits_run)


def test_ctrl_c_ends_the_step_and_saves(
    tiny: dict[str, Any], tmp_path: Path, timeless: Timeless, digits_run: Run, weights_hash: Callable[[Run], str]
) -> None:
    output = tmp_path / "run"

    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=r"after step 7 of 34; the checkpoint is saved.*--resume"):
        train(output=output, seed=3, val_fraction=0.2, on_step_end=interrupt, hook_every_steps=7, **tiny)
    assert signal.getsignal(signal.SIGINT) is before
    state = load_train_checkpoint(output / "checkpoint")
    assert state is not None
    assert state.step == 7
    run = train(output=output, resume=True, **{**tiny, "overrides": None})
    assert weights_hash(run) == weights_hash(digits_run)
    assert without_probes(timeless(run)) == timeless(digits_run)


def interrupt_twice() -> None:
    with InterruptHandler() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        while not interruption.requested:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_outside_the_main_thread_training_goes_without_a_handler(tiny: dict[str, Any], tmp_path: Path) -> None:
    done: list[Run] = []
    thread = threading.Thread(target=lambda: done.append(train(output=tmp_path / "run", **{**tiny, "epochs": 1})))
    thread.start()
    thread.join()
    assert done[0].main_metric is not None


def test_without_a_checkpoint_it_starts_from_step_0_with_a_message(
    digits_run: Run,
    tiny: dict[str, Any],
    tmp_path: Path,
    lines: list[dict[str, Any]],
    timeless: Timeless,
    weights_hash: Callable[[Run], str],
) -> None:
    (tmp_path / "run").mkdir()
    run = train(output=tmp_path / "run", resume=True, seed=3, val_fraction=0.2, **{**tiny, "on_log": lines.append})
    assert any("starting from step 0" in line.get("text", "") for line in lines)
    (run.path / "checkpoint" / "checkpoint.pt").unlink()
    again = train(output=run.path, resume=True, on_log=lines.append)
    assert weights_hash(again) == weights_hash(digits_run)
    assert timeless(again) == timeless(digits_run)


def test_a_run_that_ended_can_be_made_longer(tiny: dict[str, Any], tmp_path: Path) -> None:
    constant = {**tiny, "overrides": {**tiny["overrides"], "schedule.name": "constant"}}
    run = train(output=tmp_path / "run", **{**constant, "epochs": 1})
    longer = train(output=run.path, resume=True, epochs=2, on_log=lambda line: None)
    assert longer.recipe.duration == "2 epochs"
    assert longer.result is not None
    assert longer.result["steps"] == 44
    whole = train(output=tmp_path / "whole", **{**constant, "epochs": 2})
    states = [load_train_checkpoint(result.path / "checkpoint") for result in (longer, whole)]
    assert states[0] is not None
    assert states[1] is not None
    assert all(torch.equal(states[0].model[name], states[1].model[name]) for name in states[0].model)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"model": "resnet32_cifar"}, "model"),
        ({"overrides": {"model.depths": "2,2,2"}}, r"model\.depths"),
        ({"data": "mnist"}, "data"),
        ({"recipe": "cifar"}, "recipe"),
        ({"batch_size": 32}, "batch_size"),
        ({"lr": 0.5}, r"optimizer\.lr"),
        ({"overrides": {"label_smoothing": "0.2"}}, "label_smoothing"),
        ({"val_fraction": 0.3}, "val_fraction"),
        ({"pretrained": "weights.pth"}, "pretrained"),
        ({"loss": nn.functional.nll_loss}, "loss"),
        ({"model": nn.Flatten()}, "model"),
    ],
)
def test_a_conflicting_argument_is_named(arguments: dict[str, Any], named: str, digits_run: Run) -> None:
    before = (digits_run.path / "run.json").read_bytes()
    with pytest.raises(ValueError, match=rf"{named} as in the run.*omit {named}"):
        train(output=digits_run.path, resume=True, on_log=lambda line: None, **arguments)
    assert (digits_run.path / "run.json").read_bytes() == before


def test_repeating_an_option_is_no_conflict(tiny: dict[str, Any], tmp_path: Path) -> None:
    arguments = {
        **tiny,
        "model": "resnet20_cifar",
        "data": "digits",
        "recipe": "digits",
        "seed": 0,
        "batch_size": 128,
        "epochs": 1,
    }
    run = train(output=tmp_path / "run", **arguments)
    assert train(output=run.path, resume=True, workers=0, device="cpu", **arguments).path == run.path


def test_data_that_changed_is_reported(tiny: dict[str, Any], tmp_path: Path) -> None:
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(40) % 3
    output = tmp_path / "run"
    train(data=(images, labels), output=output, val_fraction=0.25, **tiny)
    with pytest.raises(ValueError, match="pass it again"):
        train(output=output, resume=True)
    with pytest.raises(ValueError, match="images or labels differ"):
        train(data=(images, labels.flip(0)), output=output, resume=True)
    run = train(data=(images, labels), output=output, resume=True, on_log=lambda line: None)
    assert run.metadata["data"]["num_images"] == {"train": 30, "val": 10}


def test_a_finished_run_is_reported(
    digits_run: Run, tmp_path: Path, lines: list[dict[str, Any]], weights_hash: Callable[[Run], str]
) -> None:
    done = tmp_path / "done"
    shutil.copytree(digits_run.path, done)
    run = train(output=done, resume=True, on_log=lines.append)
    message = "nothing to do: the run is at step 34, the requested length is 34"
    assert message in [line.get("text") for line in lines]
    assert weights_hash(run) == weights_hash(digits_run)


def test_a_length_below_what_is_done_is_refused_and_nothing_lost(digits_run: Run, tmp_path: Path) -> None:
    done = tmp_path / "done"
    shutil.copytree(digits_run.path, done)
    before = (done / "run.json").read_bytes()
    with pytest.raises(ValueError, match=r"at least the 34 steps already taken; got: 1 epoch, 17 steps"):
        train(output=done, resume=True, epochs=1)
    assert (done / "run.json").read_bytes() == before


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_resumed_is_the_uninterrupted_one(tmp_path: Path, weights_hash: Callable[[Run], str]) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(16)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))

    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    settings = {"compile": True, "duration": "6 steps", "batch_size": 32}
    options = {"data": "digits", "overrides": settings, "on_log": lambda line: None, "device": "cpu"}
    whole = train(network(), output=tmp_path / "whole", **options)
    plain = train(network(), output=tmp_path / "plain", **{**options, "overrides": {**settings, "compile": False}})
    with pytest.raises(TrainingInterrupted):
        train(network(), output=tmp_path / "run", on_step_end=interrupt, hook_every_steps=1, **options)
    run = train(network(), output=tmp_path / "run", resume=True, **options)
    assert weights_hash(run) == weights_hash(whole)
    assert weights_hash(run) != weights_hash(plain)  # the compiled network draws its noise in its own way


def test_a_run_is_set_up_again_as_it_was_recorded(digits_run: Run) -> None:
    recorded = digits_run.path.joinpath("run.json").read_bytes()
    setup = reopen_run(TrainOptions(), digits_run.path, ProcessGroup())
    assert setup.recipe == digits_run.recipe
    assert setup.loop.seed == digits_run.metadata["seed"]
    assert setup.data.fingerprint == digits_run.metadata["data"]["fingerprint"]
    assert {name: len(split) for name, split in setup.data.splits.items()} == digits_run.metadata["data"]["num_images"]
    assert digits_run.path.joinpath("run.json").read_bytes() == recorded


def test_only_the_duration_may_change_and_is_recorded_with_the_command(digits_run: Run, tmp_path: Path) -> None:
    shutil.copytree(digits_run.path, tmp_path / "run")
    longer = TrainOptions(recipe_overrides={"duration": "5 epochs"})
    setup = resume_run(longer, tmp_path / "run", ProcessGroup())
    again = Run(tmp_path / "run")
    assert setup.recipe.duration == again.recipe.duration == "5 epochs"
    assert len(again.metadata["resume_commands"]) == 1
    error = conflict_error("seed", 4, 3)
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="seed as in the run, 3"):
        resume_run(TrainOptions(seed=4), tmp_path / "run", ProcessGroup())
