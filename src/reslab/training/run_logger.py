"""The logger of a run: records go to log.jsonl, to further writers (TensorBoard), and to a callback that shows them."""

import html
import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from reslab.spec.errors import invalid
from reslab.spec.task import all_metrics
from reslab.training.run import Run

LogCallback = Callable[[dict[str, Any]], None]

_LOGGER = logging.getLogger("reslab")


def default_log_callback() -> LogCallback:
    """Return a callback that shows records in a notebook's cell, or logs them to `logging.getLogger("reslab")`."""
    return _notebook_log_callback() or _log_record


def _log_record(record: dict[str, Any]) -> None:
    if record["kind"] != "progress":
        _LOGGER.info("%s", format_record(record))


def _notebook_log_callback() -> LogCallback | None:
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
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
    """Return a record as a line of text."""
    kind = record["kind"]
    if kind == "message":
        return str(record["text"])
    if kind == "start":
        position = f"{record['device']}, {record['precision']}"
        steps_text = f"{record['total_steps']:,} steps, writing to {record['run']}"
        return f"{record['model']} on {record['data']}, {position}: {steps_text}"
    if kind == "progress":
        return f"step {record['step']:,} of {record['total_steps']:,}, {record['seconds']:.0f} s"
    position = f"epoch {record['epoch']:.2f}" if "epoch" in record else f"step {record['step']:,}"
    if kind == "train":
        speed_text = f"{record['images_per_second']:,.0f} images/s"
        return f"{position}: {_metrics_text(record)}, {speed_text}"
    if kind == "eval":
        return f"{position}: on {record['split']} {_metrics_text(record)}"
    if kind == "phase":
        return f"{position}: training {', '.join(record['trained'])} ({record['num_trained_params']:,} parameters)"
    return f"{position}: " + ", ".join(
        f"{name} {value}" for name, value in record.items() if name not in ("kind", "step")
    )


def _metrics_text(record: dict[str, Any]) -> str:
    """Return the metrics of a record that tasks have: `loss 0.1234, accuracy 0.9800`."""
    titles = {metric.name: metric.title for metric in all_metrics()}
    return ", ".join(f"{titles[name]} {value:.4f}" for name, value in record.items() if name in titles)


_NON_SCALAR_KEYS = ("kind", "split", "step")


def require_tensorboard() -> None:
    """Raise ValueError if TensorBoard is not installed."""
    if not has_tensorboard():
        next_step = "pip install 'reslab[tensorboard]', or omit --tensorboard: log.jsonl has the same numbers"
        raise invalid("the package tensorboard for --tensorboard", "it is not installed", next_step=next_step)


def has_tensorboard() -> bool:
    """Return True if TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class LogWriter(Protocol):
    """A further destination of a run's records, such as an experiment tracker."""

    def start(self, step: int) -> None:
        """Start or resume after `step` steps; remove earlier records of later steps where that is possible."""

    def log(self, record: dict[str, Any]) -> None:
        """Write a record: the dict that is one line of log.jsonl."""

    def close(self) -> None:
        """Close what `start` opened."""


class TensorBoardWriter:
    """Writes every number of a record, as `train/loss` or `val/top1`, to event files in `folder`.

    Raises ValueError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self.folder = folder
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Start or resume after `step` steps; earlier points of later steps are removed."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if self.folder.exists() else None)

    def log(self, record: dict[str, Any]) -> None:
        """Add the numbers of a record and flush them, so that a killed run loses none."""
        prefix = record.get("split", record["kind"])
        for name, value in record.items():
            if name not in _NON_SCALAR_KEYS and isinstance(value, int | float):
                self._writer.add_scalar(f"{prefix}/{name}", value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


_PROGRESS_EVERY_SECONDS = 0.25


class RunLogger:
    """Logs the records of a run on rank 0 and does nothing on the others.

    Records are appended to log.jsonl, passed to the writers, and shown; messages and progress are only shown. An error
    of a writer or of the callback is kept until `raise_failure`, so that the step it belongs to is finished and can be
    saved; one of log.jsonl is raised at once.
    """

    def __init__(self, run: Run, on_log: LogCallback, is_main: bool = True, writers: Sequence[LogWriter] = ()) -> None:
        self.run, self.on_log, self.is_main, self.writers = run, on_log, is_main, tuple(writers)
        self._last_progress_time = time.perf_counter()
        self._failure: Exception | None = None

    def log(self, record: dict[str, Any]) -> None:
        """Write a record to the log and show it."""
        if not self.is_main:
            return
        self.run.log.append(record)
        for writer in self.writers:
            self._call(writer.log, record)
        self._call(self.on_log, record)

    def show(self, record: dict[str, Any]) -> None:
        """Show a record without writing it."""
        if self.is_main:
            self._call(self.on_log, record)

    def log_message(self, text: str) -> None:
        """Show a message for the user."""
        self.show({"kind": "message", "text": text})

    def log_progress(self, make_record: Callable[[], dict[str, Any]]) -> None:
        """Show the progress, at most a few times a second."""
        now = time.perf_counter()
        if self.is_main and now - self._last_progress_time >= _PROGRESS_EVERY_SECONDS:
            self._last_progress_time = now
            self._call(self.on_log, {"kind": "progress", **make_record()})

    def raise_failure(self) -> None:
        """Raise the first error of a writer or the callback, if there was one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _call(self, fn: LogCallback, record: dict[str, Any]) -> None:
        try:
            fn(record)
        except Exception as error:
            self._failure = self._failure or error

    def start(self, step: int) -> None:
        """Start or resume after `step` steps; records of later steps are removed."""
        if self.is_main:
            self.run.log.truncate(step)
            for writer in self.writers:
                writer.start(step)

    def close(self) -> None:
        """Close the files."""
        if self.is_main:
            for writer in self.writers:
                writer.close()
