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
from reslab.runtime.files import room_for, sweep, write_whole
from reslab.spec.errors import invalid
from reslab.spec.optim import Duration, parse_duration

_FOLDER = "snapshots"
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


def parse_interval(text: str) -> Duration:
    """`"1 epoch"` or `"500 steps"` as a value; `"0"` is never. Raises ValueError where the unit is missing."""
    return Duration(0, "steps") if text.strip() == "0" else parse_duration(text, "snapshots")


def num_steps_between(text: str, steps_per_epoch: int) -> int:
    """The steps from one snapshot to the next; 0 for none at all. Raises ValueError where that is less than a step."""
    interval = parse_interval(text)
    every = interval.num_steps(steps_per_epoch)
    if interval.count and not every:
        raise invalid("snapshots at least a step apart", repr(text), nearest="'1 step'")
    return every


def list_snapshots(run: Path) -> list[tuple[int, Path]]:
    """The snapshots in the folder of a run, with the number of steps that were done, in their order."""
    found = ((_NAME.fullmatch(path.name), path) for path in (run / _FOLDER).glob("step-*.safetensors"))
    return sorted((int(name[1]), path) for name, path in found if name)


@dataclass(frozen=True)
class Snapshots:
    """The weights of a run every `every` steps, those of step 0 among them; none where `every` is 0.

    They are the weights the network is trained with, also where a moving average of them is judged. `facts` go into the
    header of each, beside its step.
    """

    run: Path
    every: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        """Whether the weights after `step` steps are to be kept, and are not yet."""
        return self.every > 0 and step % self.every == 0 and not self._path(step).exists()

    def keep(self, step: int, model: nn.Module) -> None:
        """Write the weights after `step` steps, whole or not at all. Raises DiskFull."""
        path = self._path(step)
        facts = {**self.facts, "scores": None, "chosen": f"the weights of step {step}", "step": step}
        with room_for(path):
            path.parent.mkdir(exist_ok=True)
            save_weights(path, model, facts)

    def cut(self, step: int) -> None:
        """Forget those after `step`, and what a killed process left half written."""
        for done, path in list_snapshots(self.run):
            if done > step:
                path.unlink()
        for partial in (self.run / _FOLDER).glob("*.partial"):
            partial.unlink()

    def _path(self, step: int) -> Path:
        return self.run / _FOLDER / f"step-{step:08d}.safetensors"


_FILE = "state.pt"


@dataclass
class Best:
    """The weights that did best on the validation split so far."""

    step: int
    num_correct: int
    loss: float
    weights: dict[str, torch.Tensor]

    def beaten_by(self, num_correct: int, loss: float) -> bool:
        """More right, or as many at a smaller loss."""
        return (num_correct, -loss) > (self.num_correct, -self.loss)


@dataclass
class State:
    """All that changes from step to step and is not a function of the step.

    `average` are the weights' moving average, `epoch_mean` their mean over epochs, `scaler` is fp16's, `warmed` the
    step where a warm-up until an error ended, `plateau` what the schedule of that name has seen, `stopping` what early
    stopping has; None where there is none.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    tally: dict[str, Any]
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    average: dict[str, Any] | None = None
    epoch_mean: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    warmed: int | None = None
    plateau: dict[str, Any] | None = None
    stopping: dict[str, Any] | None = None


def save_state(folder: Path, state: State) -> None:
    """Write `state` into `folder`; the previous one is there until the new one is whole. Raises DiskFull."""
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    write_whole(folder / _FILE, buffer.getbuffer())


def has_state(folder: Path) -> bool:
    """Whether a state was saved in `folder`."""
    return (folder / _FILE).exists()


def load_state(folder: Path, device: torch.device | str = "cpu") -> State | None:
    """The last state saved in `folder`, None where there is none. Raises ValueError where the file is damaged."""
    path = folder / _FILE
    if folder.is_dir():
        sweep(folder)
    if not path.exists():
        return None
    try:
        return State(**torch.load(path, map_location=device, weights_only=True))
    except (RuntimeError, EOFError, pickle.UnpicklingError, TypeError, LookupError, AttributeError, OSError) as error:
        raise ValueError(
            f"required: a whole training state; got: {path}, which cannot be read ({error}); "
            "remove it to start from step 0"
        ) from error
