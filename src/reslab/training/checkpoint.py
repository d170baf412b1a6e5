"""Weights kept along the way, each a file that stands alone: `snapshots/step-00000390.safetensors`.

What resuming needs, saved whole or not at all.
"""

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.runtime.files import disk_full_guard, remove_partial_files, write_atomic
from reslab.spec.errors import invalid
from reslab.spec.optim import Duration, parse_duration

_SNAPSHOT_DIR = "snapshots"
_SNAPSHOT_PATTERN = re.compile(r"step-(\d{8,})\.safetensors")


def parse_snapshot_interval(text: str) -> Duration:
    """`"1 epoch"` or `"500 steps"` as a value; `"0"` is never. Raises ValueError where the unit is missing."""
    return Duration(0, "steps") if text.strip() == "0" else parse_duration(text, "snapshots")


def snapshot_interval_steps(text: str, steps_per_epoch: int) -> int:
    """The steps from one snapshot to the next; 0 for none at all. Raises ValueError where that is less than a step."""
    interval = parse_snapshot_interval(text)
    num_steps = interval.num_steps(steps_per_epoch)
    if interval.count and not num_steps:
        raise invalid("snapshots at least a step apart", repr(text), nearest="'1 step'")
    return num_steps


def list_snapshots(run_path: Path) -> list[tuple[int, Path]]:
    """The snapshots in the folder of a run, with the number of steps that were done, in their order."""
    matches = (
        (_SNAPSHOT_PATTERN.fullmatch(path.name), path) for path in (run_path / _SNAPSHOT_DIR).glob("step-*.safetensors")
    )
    return sorted((int(match[1]), path) for match, path in matches if match)


@dataclass(frozen=True)
class SnapshotWriter:
    """The weights of a run every `every` steps, those of step 0 among them; none where `every` is 0.

    They are the weights the network is trained with, also where a moving average of them is judged. `facts` go into the
    header of each, beside its step.
    """

    run_path: Path
    every_steps: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def is_due(self, step: int) -> bool:
        """Whether the weights after `step` steps are to be kept, and are not yet."""
        return self.every_steps > 0 and step % self.every_steps == 0 and not self._path(step).exists()

    def save(self, step: int, model: nn.Module) -> None:
        """Write the weights after `step` steps, whole or not at all. Raises DiskFull."""
        path = self._path(step)
        metadata = {**self.metadata, "metrics": None, "selection": "snapshot", "step": step}
        with disk_full_guard(path):
            path.parent.mkdir(exist_ok=True)
            save_weights(path, model, metadata)

    def truncate(self, step: int) -> None:
        """Forget those after `step`, and what a killed process left half written."""
        for snapshot_step, path in list_snapshots(self.run_path):
            if snapshot_step > step:
                path.unlink()
        remove_partial_files(self.run_path / _SNAPSHOT_DIR)

    def _path(self, step: int) -> Path:
        return self.run_path / _SNAPSHOT_DIR / f"step-{step:08d}.safetensors"


_FILENAME = "checkpoint.pt"


@dataclass
class BestWeights:
    """The weights that did best on the validation split so far."""

    step: int
    num_correct: int
    loss: float
    weights: dict[str, torch.Tensor]

    def is_worse_than(self, num_correct: int, loss: float) -> bool:
        """More right, or as many at a smaller loss."""
        return (num_correct, -loss) > (self.num_correct, -self.loss)


@dataclass
class TrainCheckpoint:
    """All that changes from step to step and is not a function of the step.

    `average` are the weights' moving average, `epoch_mean` their mean over epochs, `scaler` is fp16's, `warmed` the
    step where a warm-up until an error ended, `plateau` what the schedule of that name has seen, `stopping` what early
    stopping has; None where there is none.
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


def save_train_checkpoint(folder: Path, checkpoint: TrainCheckpoint) -> None:
    """Write `state` into `folder`; the previous one is there until the new one is whole. Raises DiskFull."""
    buffer = io.BytesIO()
    torch.save(vars(checkpoint), buffer)
    write_atomic(folder / _FILENAME, buffer.getbuffer())


def has_train_checkpoint(folder: Path) -> bool:
    """Whether a state was saved in `folder`."""
    return (folder / _FILENAME).exists()


def load_train_checkpoint(folder: Path, device: torch.device | str = "cpu") -> TrainCheckpoint | None:
    """The last state saved in `folder`, None where there is none. Raises ValueError where the file is damaged."""
    path = folder / _FILENAME
    if folder.is_dir():
        remove_partial_files(folder)
    if not path.exists():
        return None
    try:
        return TrainCheckpoint(**torch.load(path, map_location=device, weights_only=True))
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, LookupError, AttributeError, OSError) as error:
        raise ValueError(
            f"required: a whole training state; got: {path}, which cannot be read ({error}); "
            "remove it to start from step 0"
        ) from error
