"""The files of a run with weights: checkpoints to resume from, snapshots, and the final or the best weights so far."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reslab.nn.checkpoints.read import check_zip
from reslab.nn.checkpoints.safetensors_io import read_header, save_state_dict, save_weights, update_header
from reslab.runtime.device import choose_device
from reslab.runtime.files import disk_full_guard, write_atomic
from reslab.spec.config import to_dict
from reslab.spec.errors import invalid
from reslab.spec.optim import Duration, parse_duration
from reslab.training.evaluation.calibration import FittedTemperature
from reslab.training.run import Run, weights_header
from reslab.training.run_folder import SNAPSHOT_DIR, list_snapshots

if TYPE_CHECKING:
    from reslab.nn.network import ResidualNetwork


def parse_snapshot_interval(text: str) -> Duration:
    """Parse `"1 epoch"`, `"500 steps"`, or `"0"` for never. Raises ValueError if the unit is missing."""
    return Duration(0, "steps") if text.strip() == "0" else parse_duration(text, "snapshots")


def snapshot_interval_steps(text: str, steps_per_epoch: int) -> int:
    """Return the steps between two snapshots, 0 for none. Raises ValueError if that is less than a step."""
    interval = parse_snapshot_interval(text)
    num_steps = interval.num_steps(steps_per_epoch)
    if interval.count and not num_steps:
        raise invalid("snapshots at least a step apart", repr(text), nearest="'1 step'")
    return num_steps


@dataclass(frozen=True)
class SnapshotWriter:
    """Saves the weights of a run every `every_steps` steps from step 0 on; 0 means never.

    These are the weights in training, also if their moving average is evaluated. `metadata` goes into the header of
    each file, `snapshots/step-00000390.safetensors`, together with its step.
    """

    run_path: Path
    every_steps: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def is_due(self, step: int) -> bool:
        """Return True if the weights after `step` steps should be saved and are not yet."""
        return self.every_steps > 0 and step % self.every_steps == 0 and not self._path(step).exists()

    def save(self, step: int, model: nn.Module) -> None:
        """Save the weights after `step` steps, atomically. Raises DiskFullError."""
        path = self._path(step)
        metadata = {**self.metadata, "metrics": None, "selection": "snapshot", "step": step}
        with disk_full_guard(path):
            path.parent.mkdir(exist_ok=True)
            save_weights(path, model, metadata)

    def truncate(self, step: int) -> None:
        """Delete snapshots after `step`."""
        for snapshot_step, path in list_snapshots(self.run_path):
            if snapshot_step > step:
                path.unlink()

    def _path(self, step: int) -> Path:
        return self.run_path / SNAPSHOT_DIR / f"step-{step:08d}.safetensors"


_FILENAME = "checkpoint.pt"
_READ_ERRORS = (
    *(RuntimeError, EOFError, pickle.UnpicklingError, TypeError, LookupError, AttributeError, OSError),
    *(zipfile.BadZipFile, ValueError),
)


@dataclass
class BestWeights:
    """The weights with the best validation score so far: the metric of the task, and the loss among equal ones.

    In both higher is better (`Evaluation.score`).
    """

    step: int
    score: tuple[float, float]
    weights: dict[str, torch.Tensor]


@dataclass
class TrainCheckpoint:
    """All state of a run that is not a function of the step.

    `ema` are the weights' moving average, `swa` their mean over epochs, `grad_scaler` is that of fp16,
    `warmup_end_step` the step at which a warmup until an error ended, `plateau` and `early_stopping` the states of
    those; None if the run does not use it. `finished_stages` is the number of stages of the trainer's `after_step` that
    were finished when an error ended it; None after a whole step.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    meter: dict[str, Any]
    train_seconds: float = 0.0
    best: dict[str, Any] | None = None
    ema: dict[str, Any] | None = None
    swa: dict[str, Any] | None = None
    grad_scaler: dict[str, Any] | None = None
    warmup_end_step: int | None = None
    plateau: dict[str, Any] | None = None
    early_stopping: dict[str, Any] | None = None
    finished_stages: int | None = None

    def selected_weights(self) -> dict[str, Any]:
        """Return the weights that the run would keep if it ended here, unless it averages over epochs (SWA)."""
        if self.best is not None:
            weights: dict[str, Any] = self.best["weights"]
            return weights
        return self.model if self.ema is None else self.ema


def checkpoint_path(folder: Path) -> Path:
    """Return the path of the checkpoint in `folder`."""
    return folder / _FILENAME


def save_train_checkpoint(folder: Path, checkpoint: TrainCheckpoint) -> None:
    """Write the checkpoint into `folder` atomically: the previous one stays until the new one is complete.

    Raises DiskFullError.
    """
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    write_atomic(folder / _FILENAME, buffer.getbuffer())


def has_train_checkpoint(folder: Path) -> bool:
    """Return True if `folder` has a checkpoint."""
    return (folder / _FILENAME).exists()


def load_train_checkpoint(folder: Path, device: torch.device | str = "cpu") -> TrainCheckpoint | None:
    """Load the checkpoint in `folder` and change nothing there, so that another process may be writing the next one.

    None if there is no checkpoint. Raises ValueError if the file is damaged.
    """
    path = folder / _FILENAME
    if not path.exists():
        return None
    try:
        check_zip(path)
        return TrainCheckpoint(**torch.load(path, map_location=device, weights_only=True))
    except _READ_ERRORS as error:
        got = f"{path}, which cannot be read ({error})"
        raise invalid("a complete checkpoint", got, next_step="delete it to start from step 0") from error


def load_run_network(source: Run | str | Path, device: str | torch.device = "cpu") -> "ResidualNetwork":
    """Load the network of a run, of a `model.safetensors`, or of an exported folder, in eval mode.

    It has `classes` and `preprocess`. A run that has not ended gives its best weights so far, with a warning. Raises
    ValueError if it has none yet, or trained a user's own module.
    """
    weights_path = find_weights_path(source)
    from reslab.nn.factory import load_network

    return load_network(weights_path, choose_device(device))


def find_weights_path(source: Run | str | Path) -> Path:
    """Return the weights file of a run or an exported folder, or the file itself. Raises like `run_weights_path`."""
    if isinstance(source, Run):
        return run_weights_path(source)
    folder = Path(source)
    exported_path = folder / "model.safetensors"
    if folder.is_dir() and not (folder / "run.json").exists() and exported_path.is_file():
        return exported_path
    return run_weights_path(Run(folder)) if folder.is_dir() else folder


class InterimWeightsWarning(UserWarning):
    """A run has not ended, and its best weights so far are used."""


def run_weights_path(run: Run, allow_interim: bool = True) -> Path:
    """Return the file of a run's final weights, or of the best so far of a run that has not ended, with a warning.

    Raises ValueError if the run has no weights yet or, without `allow_interim`, has not ended.
    """
    if run.weights_path.exists():
        return run.weights_path
    path = _write_interim_weights(run) if allow_interim else None
    if path is None:
        raise invalid(
            "a run that has ended",
            f"{run.path}, which has no weights yet",
            next_step=f"resume it: --output {run.path} --resume",
        )
    return path


def interim_weights_path(run: Run) -> Path:
    """Return the place of the best weights so far, which are written when they are used."""
    return run.path / "checkpoint" / "best-so-far.safetensors"


def _write_interim_weights(run: Run) -> Path | None:
    """Write the best weights of the checkpoint, warn, and return their file; None before the first step."""
    checkpoint, path = load_train_checkpoint(run.path / "checkpoint"), interim_weights_path(run)
    if checkpoint is None or not checkpoint.step:
        return None
    step = checkpoint.best["step"] if checkpoint.best else checkpoint.step
    text = f"best weights so far, step {step}, of a run that was at step {checkpoint.step}"
    selection = {"selection": "interim", "best_step": step, "selection_text": text, "step": checkpoint.step}
    if not path.exists() or _header_step(path) != checkpoint.step:
        header = {"arch": run.metadata["model"]["arch"], "metrics": None, **selection, **weights_header(run)}
        with disk_full_guard(path):
            save_state_dict(path, checkpoint.selected_weights(), header)
    warnings.warn(
        f"{run.path} has not ended: these are its {text} (continue it: --output {run.path} --resume)",
        InterimWeightsWarning,
        stacklevel=1,  # one place, so that it is shown once
    )
    return path


def _header_step(path: Path) -> int | None:
    try:
        return read_header(path).get("step")
    except ValueError:
        return None


def save_temperature(target: Run | str | Path, temperature: FittedTemperature) -> None:
    """Write a temperature into the header of a run's weights (or of a `model.safetensors`) and into its run.json.

    Raises ValueError if the run has not ended or the file was not written by reslab; DiskFullError.
    """
    is_run = isinstance(target, Run) or Path(target).is_dir()
    run = (target if isinstance(target, Run) else Run(target)) if is_run else None
    path = run_weights_path(run, allow_interim=False) if run else Path(str(target))
    fields: dict[str, Any] = to_dict(temperature)
    with disk_full_guard(path):
        update_header(path, temperature=fields)
    if run:
        run.update(temperature=fields)
