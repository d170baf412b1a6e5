"""Weights kept along the way."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors
from reslab.nn.factory import load_network
from reslab.runtime.interrupts import TrainingInterrupted
from reslab.training.checkpoint import snapshot_interval_steps
from reslab.training.run import Run
from reslab.training.train import train


def bytes_of(run: Run) -> dict[int, bytes]:
    return {step: path.read_bytes() for step, path in run.snapshots()}


@pytest.fixture(scope="module")
def kept(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """34 steps, a snapshot every 10."""
    output = tmp_path_factory.mktemp("kept") / "run"
    return train(output=output, seed=3, val_fraction=0.2, snapshot_every="10 steps", **tiny)


def test_they_are_kept_at_their_interval_step_0_among_them(kept: Run, digits_run: Run) -> None:
    assert [(step, path.name) for step, path in kept.snapshots()] == [
        (step, f"step-000000{step:02d}.safetensors") for step in (0, 10, 20, 30)
    ]
    assert kept.metadata["snapshot_every"] == "10 steps"
    assert digits_run.snapshots() == []


def test_snapshots_do_not_change_the_weights(kept: Run, digits_run: Run, weights_hash: Callable[[Run], str]) -> None:
    assert weights_hash(kept) == weights_hash(digits_run)


def test_a_snapshot_is_self_contained(kept: Run) -> None:
    final, (step, path) = read_header(kept.weights_path), kept.snapshots()[1]
    header = read_header(path)
    own = ("step", "metrics", "selection", "best_step", "selection_text")
    assert {name: header[name] for name in header if name not in own} == {
        name: final[name] for name in final if name not in own
    }
    assert (header["step"], header["metrics"], header["selection"]) == (step, None, "snapshot")
    assert load_network(path).classes == kept.classes


def test_they_are_the_weights_of_their_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def look(step: int, model: nn.Module) -> dict[str, Any]:
        seen[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {}

    run = train(
        output=tmp_path / "run",
        snapshot_every="0.5 epochs",
        on_step_end=look,
        hook_every_steps=1,
        **{**tiny, "epochs": 1},
    )
    every = snapshot_interval_steps("0.5 epochs", 22)
    assert [step for step, _ in run.snapshots()] == [0, every, 2 * every]
    for step, path in run.snapshots()[1:]:
        assert all(torch.equal(tensor, seen[step][name]) for name, tensor in read_tensors(path).items())


def test_a_resumed_run_keeps_the_snapshots_of_the_uninterrupted_one(
    kept: Run, tiny: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "run"

    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 15:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    options = {"output": output, "seed": 3, "val_fraction": 0.2, "snapshot_every": "10 steps", **tiny}
    with pytest.raises(TrainingInterrupted):
        train(on_step_end=interrupt, hook_every_steps=1, **options)
    run = Run(output)
    assert list(bytes_of(run)) == [0, 10]
    # Of a future that did not come: after the state, and half written.
    folder = output / "snapshots"
    (folder / "step-00000020.safetensors").write_bytes(b"another")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname().replace(".", "-")
    (folder / f".step-00000020.safetensors.{dead.pid}@{host}.x.part").write_bytes(b"half")
    (folder / "step-00000010.safetensors").unlink()
    (folder / "step-00000010.safetensors").write_bytes(bytes_of(kept)[10])
    run = train(**{**options, "resume": True, "snapshot_every": None})
    assert bytes_of(run) == bytes_of(kept)
    assert sorted(path.name for path in folder.iterdir()) == [path.name for _, path in run.snapshots()]
    with pytest.raises(ValueError, match=r"snapshot_every as in the run, '10 steps'"):
        train(**{**options, "resume": True, "snapshot_every": "20 steps"})


def test_intervals() -> None:
    assert [snapshot_interval_steps(text, 20) for text in ("0", "0 steps", "1 epoch", "1.5 epochs", "7 steps")] == [
        0,
        0,
        20,
        30,
        7,
    ]
    with pytest.raises(ValueError, match="snapshots with its unit"):
        snapshot_interval_steps("5", 20)
    with pytest.raises(ValueError, match=r"at least a step apart.*'0.01 epochs'.*'1 step'"):
        snapshot_interval_steps("0.01 epochs", 20)


def test_a_wrong_interval_is_an_error_before_anything_is_written(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="snapshots with its unit"):
        train(output=tmp_path / "run", snapshot_every="often", **tiny)
    assert not (tmp_path / "run").exists()
