"""The progress of a training run on standard error: one line per evaluation, and a progress bar in a terminal."""

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text

from reslab.report.format import format_duration, format_int, format_metric
from reslab.spec.task import DEFAULT_TASK, find_task

LogEntry = dict[str, Any]

MIN_REPORTED_WAIT = 0.05


class _ProgressConsole(Console):
    """A console that raises BrokenPipeError, where rich's would end the program and redirect standard output."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class ProgressDisplay:
    """Receives the log records of a run and prints a table with one row per evaluation; in a terminal also a bar.

    The columns fit 80 characters: epoch, running loss and metric on the training batches, loss and metric on the
    monitored split, training speed, and the estimated remaining time.
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
        task = find_task(self.start_record["task"])
        titles = task.train_metric.column, task.selection_metric.column
        names = ("epoch", "train loss", titles[0], f"{record['split']} loss", titles[1], "images/s", "remaining")
        header = _format_row(names)
        if header != self._header:
            self._header = header
            self.print(header)
        train = self.last_train_record
        cells = [
            f"{record['epoch']:g}/{self._num_epochs()}",
            f"{train['loss']:.4f}" if train else "–",
            format_metric(task.train_metric, train[task.train_metric.name]) if train else "–",
            f"{record['loss']:.4f}",
            format_metric(task.selection_metric, record.get(task.selection_metric.name)),
            format_int(round(train["images_per_second"])) if train else "–",
            self._eta(record["step"]) or "–",
        ]
        self.print(_format_row(cells))
        if self._is_waiting():
            self.print(f"  {self.wait_fraction:.0%} of the time waiting for data")

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
        return [*parts, f"{self.wait_fraction:.0%} waiting"] if self._is_waiting() else parts

    def _is_waiting(self) -> bool:
        return bool(self.last_train_record) and self.wait_fraction >= MIN_REPORTED_WAIT

    def _eta(self, step: int) -> str:
        """Return the estimated remaining time, empty before the first and after the last step."""
        remaining_steps = self.start_record["total_steps"] - step
        return format_duration(self.train_seconds / step * remaining_steps) if step and remaining_steps else ""


_COLUMN_WIDTHS = (9, 10, 9, 10, 9, 10, 11)


def _format_row(cells: Sequence[str]) -> str:
    """Return the cells right-aligned in columns that fit 80 characters together."""
    return " ".join(cell.rjust(width) for cell, width in zip(cells, _COLUMN_WIDTHS, strict=True)).rstrip()


def format_ranks(record: LogEntry) -> str:
    """Return how several ranks share the global batch, such as " = 4 ranks x 32"; empty for one."""
    num_ranks = record.get("world_size", 1)
    return f" = {num_ranks} ranks x {record['batch_size'] // num_ranks}" if num_ranks > 1 else ""
