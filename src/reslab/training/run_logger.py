"""Where progress goes when nobody said: into the notebook's cell, else to the log of the program.

The numbers of a run's log for TensorBoard, an extra.

What a run tells as it goes: lines into its log and for TensorBoard, progress for who looks on.
"""

import html
import importlib
import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reslab.spec.errors import invalid
from reslab.training.run import Run

_LOGGER = logging.getLogger("reslab")


def default_log_callback() -> Callable[[dict[str, Any]], None]:
    """A receiver of lines: one changing line in a notebook, `logging.getLogger("reslab")` elsewhere."""
    return _notebook_log_callback() or _log_record


def _log_record(record: dict[str, Any]) -> None:
    if record["kind"] != "progress":
        _LOGGER.info("%s", format_record(record))


def _notebook_log_callback() -> Callable[[dict[str, Any]], None] | None:
    try:
        from IPython import get_ipython  # type: ignore[import-not-found]
        from IPython.display import HTML, display  # type: ignore[import-not-found]
    except ImportError:
        return None
    if type(get_ipython()).__name__ != "ZMQInteractiveShell":
        return None
    handle = display(HTML(""), display_id=True)
    latest: dict[str, str] = {}

    def on_log(record: dict[str, Any]) -> None:
        latest[record["kind"]] = format_record(record)
        handle.update(HTML("<br>".join(html.escape(text) for text in latest.values())))

    return on_log


def format_record(record: dict[str, Any]) -> str:
    """A line of progress in words."""
    kind = record["kind"]
    if kind == "note":
        return str(record["text"])
    if kind == "start":
        position = f"{record['device']}, {record['precision']}"
        return (
            f"{record['model']} on {record['data']}, {position}: {record['total_steps']:,} steps, into {record['run']}"
        )
    if kind == "progress":
        return f"step {record['step']:,} of {record['total_steps']:,}, {record['seconds']:.0f} s"
    position = f"epoch {record['epoch']:.2f}" if "epoch" in record else f"step {record['step']:,}"
    if kind == "train":
        return f"{position}: loss {record['loss']:.4f}, accuracy {record['top1']:.4f}, {record['images_per_second']:,.0f} images/s"
    if kind == "eval":
        return f"{position}: on {record['split']} loss {record['loss']:.4f}, accuracy {record['top1']:.4f}"
    return f"{position}: " + ", ".join(
        f"{name} {value}" for name, value in record.items() if name not in ("kind", "step")
    )


_NON_SCALAR_KEYS = ("kind", "split", "step")


def require_tensorboard() -> None:
    """Raise ValueError, with what to do, where TensorBoard is not installed."""
    if not has_tensorboard():
        next_step = "pip install 'reslab[tensorboard]', or leave out --tensorboard: log.jsonl holds the same numbers"
        raise invalid("the package tensorboard for --tensorboard", "it is not installed", next_step=next_step)


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardWriter:
    """Every number of a line, as `train/loss` or `val/top1` over its step, in event files in `folder`.

    Raises ValueError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self.folder = folder
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Go on after `step` steps; points of later ones, from before, are taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if self.folder.exists() else None)

    def log(self, record: dict[str, Any]) -> None:
        """Add the numbers of a line of the log, at once: a run that is killed has lost none."""
        prefix = record.get("split", record["kind"])
        for name, value in record.items():
            if name not in _NON_SCALAR_KEYS and isinstance(value, int | float):
                self._writer.add_scalar(f"{prefix}/{name}", value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Nothing more follows."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


LogCallback = Callable[[dict[str, Any]], None]

_PROGRESS_EVERY_SECONDS = 0.25


class RunLogger:
    """Rank 0's voice; where it is not `first` nothing is said.

    Every line of the log is shown and, where there are `scalars`, its numbers drawn; notes and progress are shown only.
    """

    def __init__(
        self, run: Run, on_log: LogCallback, is_main: bool = True, tensorboard: TensorBoardWriter | None = None
    ) -> None:
        self.run, self.on_log, self.is_main, self.tensorboard = run, on_log, is_main, tensorboard
        self._last_progress_time = time.perf_counter()

    def log(self, record: dict[str, Any]) -> None:
        """A line that stays."""
        if not self.is_main:
            return
        self.run.log.append(record)
        if self.tensorboard is not None:
            self.tensorboard.log(record)
        self.on_log(record)

    def log_message(self, text: str) -> None:
        """What a person should be told."""
        if self.is_main:
            self.on_log({"kind": "note", "text": text})

    def log_progress(self, make_record: Callable[[], dict[str, Any]]) -> None:
        """How far it is, a few times a second."""
        now = time.perf_counter()
        if self.is_main and now - self._last_progress_time >= _PROGRESS_EVERY_SECONDS:
            self._last_progress_time = now
            self.on_log({"kind": "progress", **make_record()})

    def start(self, step: int) -> None:
        """The run goes on after `step` steps: what was told of later ones is forgotten."""
        if self.is_main:
            self.run.log.truncate(step)
            if self.tensorboard is not None:
                self.tensorboard.start(step)

    def close(self) -> None:
        """Nothing more follows."""
        if self.tensorboard is not None:
            self.tensorboard.close()
