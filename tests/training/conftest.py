"""Small runs that several tests look at."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reslab.training.run import Run
from reslab.training.train import train

sys.path.insert(0, str(Path(__file__).parent))  # `launch`, which several tests here share

# A network of 8 layers that learns the digits within an epoch or two.
TINY = {"model.depths": "1,1,1", "model.widths": "8,16,32", "model.stem": "conv3(8) norm act"}


@pytest.fixture(scope="module", autouse=True)
def quick_reports(empty_plots: None) -> None:
    """The trainings of these tests write reports with empty plots."""


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Arguments that make a run short."""
    return {"overrides": dict(TINY), "epochs": 2, "on_log": lambda line: None}


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Run:
    """Two epochs on the digits, with a validation split, seed 3."""
    return train(output=tmp_path_factory.mktemp("runs") / "digits", seed=3, val_fraction=0.2, **tiny)


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """A place for what a run shows."""
    return []


@pytest.fixture(scope="session")
def timeless() -> Callable[[Run], list[dict[str, Any]]]:
    """The log of a run without what a clock says."""

    def lines_of(run: Run) -> list[dict[str, Any]]:
        return [
            {key: line[key] for key in line if key != "seconds" and not key.endswith("images_per_second")}
            for line in run.log.records()
        ]

    return lines_of


@pytest.fixture(scope="session")
def weights_hash() -> Callable[[Run], str]:
    """The file of weights, bit for bit."""

    def hash_of(run: Run) -> str:
        return hashlib.sha256(run.weights_path.read_bytes()).hexdigest()

    return hash_of
