"""A run with random weights of parallel branches: a resumed run draws as one that ran through."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from reslab.runtime.interrupts import TrainingInterrupted
from reslab.training.run import Run
from reslab.training.train import train

SHAKE = {"model.branches": 2, "model.merge": "shake add"}


def test_an_interrupted_run_draws_as_one_that_ran_through(
    tiny: dict[str, Any], tmp_path: Path, weights_hash: Callable[[Run], str]
) -> None:
    def interrupt(step: int, model: nn.Module) -> dict[str, Any]:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    def run(name: str, **arguments: Any) -> str:
        overrides = {**tiny["overrides"], **SHAKE}
        return weights_hash(train(output=tmp_path / name, **{**tiny, "overrides": overrides}, **arguments))

    whole = run("whole")
    with pytest.raises(TrainingInterrupted):
        run("parts", on_step_end=interrupt, hook_every_steps=5)
    assert run("parts", resume=True) == whole
