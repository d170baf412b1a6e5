"""What resuming needs, saved whole or not at all."""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.runtime.files import sweep, write_whole

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
