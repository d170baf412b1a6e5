"""Long loops of faults on the command line: run by `make soak`."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reslab.nn.checkpoints.safetensors_io import read_header, read_tensors

TRAIN = ["train", "--set", "model.depths=1,1,1", "--epochs", "20", "--device", "cpu"]


def start(output: Path) -> "subprocess.Popen[bytes]":
    resume = ["--resume"] if output.exists() else []
    arguments = [sys.executable, "-m", "reslab", *TRAIN, "--output", str(output), *resume]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_again_and_again_is_the_uninterrupted_one(tmp_path: Path, seed: int) -> None:
    """SIGKILL or Ctrl-C at a random moment, resumed until it ends: weights and log equal those of a run left alone."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start(whole).communicate()
    assert (whole / "report.html").exists()
    chance = random.Random(seed)
    num_faults = 0
    while True:
        run = start(broken)
        try:
            errors = run.communicate(timeout=chance.uniform(1, 12))[1]
        except subprocess.TimeoutExpired:
            # Ctrl-C saves the state, so the run gets on; a kill takes it back to the last one saved.
            run.send_signal(signal.SIGINT if chance.random() < 0.6 else signal.SIGKILL)
            errors = run.communicate()[1]
            num_faults += 1
        # Killed, ended, stopped by Ctrl-C in a command (130) or before Python had come to one (-2).
        assert run.returncode in (-signal.SIGKILL, -signal.SIGINT, 0, 130), errors
        if run.returncode == 0:
            break
        assert b"unexpected error" not in errors, errors
        assert num_faults < 100, errors
    assert num_faults > 0
    left, right = (read_tensors(path / "model.safetensors") for path in (whole, broken))
    assert all(left[name].equal(right[name]) for name in left)
    scores = [read_header(path / "model.safetensors")["metrics"] for path in (whole, broken)]
    assert scores[0] == scores[1]
