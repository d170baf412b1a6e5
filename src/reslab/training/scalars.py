"""The numbers of a run's log for TensorBoard, an extra."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from reslab.spec.errors import refuse

_NOT_DRAWN = ("kind", "split", "step")


def require_tensorboard() -> None:
    """Raise ValueError, with what to do, where TensorBoard is not installed."""
    if not has_tensorboard():
        advice = "pip install 'reslab[tensorboard]', or leave out --tensorboard: log.jsonl holds the same numbers"
        raise refuse("the package tensorboard for --tensorboard", "it is not installed", next_step=advice)


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class Scalars:
    """Every number of a line, as `train/loss` or `val/top1` over its step, in event files in `folder`.

    Raises ValueError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self.folder = folder
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Go on after `step` steps; points of later ones, from before, are taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if self.folder.exists() else None)

    def write(self, line: dict[str, Any]) -> None:
        """Add the numbers of a line of the log, at once: a run that is killed has lost none."""
        group = line.get("split", line["kind"])
        for name, value in line.items():
            if name not in _NOT_DRAWN and isinstance(value, int | float):
                self._writer.add_scalar(f"{group}/{name}", value, line["step"])
        self._writer.flush()

    def end(self) -> None:
        """Nothing more follows."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
