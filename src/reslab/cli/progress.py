"""The progress of a training run on standard error: one line per evaluation, and a progress bar in a terminal."""

import contextlib
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text

from reslab.report.format import format_duration, format_int, format_metric, format_percent
from reslab.spec.task import DEFAULT_TASK, LOSS, find_task

LogEntry = dict[str, Any]

MIN_REPORTED_WAIT = 0.05


class _Column(NamedTuple):
    """A column of the table: its title, the cell of a row, and its width, in which both are right-aligned."""

    title: str
    text: str
    width: int


class _ProgressConsole(Console):
    """A console that raises BrokenPipeError, where rich's would end the program and redirect standard output."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class ProgressDisplay:
    """Receives the log records of a run and prints a table with one row per evaluation; in a terminal also a bar.

    The columns fit 80 characters: epoch, running loss and metric on the training batches, loss and metric on the
    monitored split, training speed, and the estimated remaining time. A task without one of these has no such column.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _ProgressConsole(stderr=True, highlight=False, soft_wrap=True)
        self.start_record: LogEntry = {
            "total_steps": 0, "step": 0, "steps_per_epoch": 1, "task": DEFAULT_TASK,
        }  # fmt: skip
        self.last_train_record: LogEntry = {}
        self.train_seconds = 0.0
        self.wait_fraction = 0.0
        self._header = ""
        self._is_stream_gone = False
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, exc_traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()
            self._bar = None

    def __call__(self, record: LogEntry) -> None:
        """Print what a log record of the run shows; once the terminal or pipe is gone, nothing."""
        handler = getattr(self, f"_on_{record['kind']}", None)
        if handler is None or self._is_stream_gone:
            return
        try:
            handler(record)
        except OSError:
            self._is_stream_gone = True
        except ValueError:
            if not self.console.file.closed:
                raise
            self._is_stream_gone = True

    def _on_message(self, record: LogEntry) -> None:
        self.print(f"note: {record['text']}")

    def _on_start(self, record: LogEntry) -> None:
        self.__exit__(None, None, None)  # the bar of the run before, where one command trains several
        self.last_train_record, self._header = {}, ""
        self.start_record = record
        self.print(f"{record['model']} ({format_int(record['params'])} parameters) on {record['data']}")
        batch_text = f"batch size {record['batch_size']}{format_ranks(record)}"
        self.print(f"recipe {record['recipe']}, {batch_text}, {record['precision']}, {record['device']}")
        self.print(f"{format_int(record['total_steps'])} steps, writing to {record['run']}")
        if self.console.is_terminal:
            columns: tuple[ProgressColumn, ...] = (BarColumn(12), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=record["total_steps"], completed=record["step"])
            self._bar.start()

    def _on_phase(self, record: LogEntry) -> None:
        parts_text = ", ".join(record["trained"])
        params_text = (
            f"{format_int(record['num_trained_params'])} of {format_int(self.start_record['params'])} parameters"
        )
        self.print(f"epoch {record['epoch']:.4g}: training {parts_text} ({params_text})")

    def _on_train(self, record: LogEntry) -> None:
        self.last_train_record = record
        self.train_seconds = record["seconds"]
        self._update_bar(record["step"])

    def _on_progress(self, record: LogEntry) -> None:
        self.train_seconds, self.wait_fraction = record["seconds"], record.get("waiting_fraction", self.wait_fraction)
        self._update_bar(record["step"])

    def _on_eval(self, record: LogEntry) -> None:
        columns = self._columns(record)
        header = " ".join(column.title.rjust(column.width) for column in columns)
        if header != self._header:
            self._header = header
            self.print(header)
        self.print(" ".join(column.text.rjust(column.width) for column in columns))
        if self._is_waiting():
            self.print(f"  {format_percent(self.wait_fraction, 0)} of the time waiting for data")

    def _columns(self, record: LogEntry) -> list[_Column]:
        """Return the columns of an evaluation; a task without a metric or a loss beside the others has none for it."""
        task, train, loss = find_task(self.start_record["task"]), self.last_train_record, record.get("loss")
        metric, train_metric = task.selection_metric, task.train_metric
        train_text = format_metric(train_metric, train[train_metric.name]) if train else "–"
        columns = [
            _Column("epoch", f"{record['epoch']:g}/{self._num_epochs()}", 9),
            _Column("train loss", f"{train['loss']:.4f}" if train else "–", 10),
            None if train_metric == LOSS else _Column(train_metric.column, train_text, 9),
            None if loss is None else _Column(f"{record['split']} loss", f"{loss:.4f}", 10),
            _Column(metric.column, format_metric(metric, record.get(metric.name)), 9),
            _Column("images/s", format_int(round(train["images_per_second"])) if train else "–", 10),
            _Column("remaining", self._eta(record["step"]) or "–", 11),
        ]
        return [column for column in columns if column is not None]

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(Text(text))

    def _update_bar(self, step: int) -> None:
        if self._bar is not None:
            epoch = f"epoch {step / self.start_record['steps_per_epoch']:.1f}/{self._num_epochs()}"
            eta = self._eta(step)
            description = ", ".join([epoch, *self._train_status(), *([f"ETA {eta}"] if eta else [])])
            self._bar.update(self._task, completed=step, description=description)

    def _num_epochs(self) -> str:
        return f"{self.start_record['total_steps'] / self.start_record['steps_per_epoch']:.4g}"

    def _train_status(self) -> list[str]:
        if not self.last_train_record:
            return []
        record = self.last_train_record
        parts = [f"loss {record['loss']:.4f}", f"{format_int(round(record['images_per_second']))} images/s"]
        return [*parts, f"{format_percent(self.wait_fraction, 0)} waiting"] if self._is_waiting() else parts

    def _is_waiting(self) -> bool:
        return bool(self.last_train_record) and self.wait_fraction >= MIN_REPORTED_WAIT

    def _eta(self, step: int) -> str:
        """Return the estimated remaining time, empty before the first and after the last step."""
        remaining_steps = self.start_record["total_steps"] - step
        return format_duration(self.train_seconds / step * remaining_steps) if step and remaining_steps else ""


def format_ranks(record: LogEntry) -> str:
    """Return how several ranks share the global batch, such as " = 4 ranks x 32"; empty for one."""
    num_ranks = record.get("world_size", 1)
    return f" = {num_ranks} ranks x {record['batch_size'] // num_ranks}" if num_ranks > 1 else ""
