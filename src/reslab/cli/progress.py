"""What a training run shows while it runs: a live line in a terminal, plain lines elsewhere; all on standard error."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text

from reslab.report.format import format_duration, format_int, format_percent

LogEntry = dict[str, Any]

MIN_REPORTED_WAIT = 0.05


class ProgressDisplay:
    """Receives the lines of a run (`show` of `train`): one line an evaluation; in a terminal a bar moves between."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.start_record: LogEntry = {"total_steps": 0, "step": 0, "steps_per_epoch": 1}
        self.last_train_record: LogEntry = {}
        self.train_seconds = 0.0
        self.wait_fraction = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, exc_traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, record: LogEntry) -> None:
        """Take one line of the run."""
        handler = getattr(self, f"_on_{record['kind']}", None)
        if handler is not None:
            handler(record)

    def _on_note(self, record: LogEntry) -> None:
        self.print(f"note: {record['text']}")

    def _on_start(self, record: LogEntry) -> None:
        self.start_record = record
        self.print(f"{record['model']} ({format_int(record['params'])} parameters) on {record['data']}")
        self.print(
            f"recipe {record['recipe']}, batch {record['batch_size']}{format_ranks(record)}, {record['precision']}, on {record['device']}: "
            f"{format_int(record['total_steps'])} steps, into {record['run']}"
        )
        if self.console.is_terminal:
            columns: tuple[ProgressColumn, ...] = (BarColumn(24), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=record["total_steps"], completed=record["step"])
            self._bar.start()

    def _on_train(self, record: LogEntry) -> None:
        self.last_train_record = record
        self.train_seconds = record["seconds"]
        self._update_bar(record["step"])

    def _on_progress(self, record: LogEntry) -> None:
        self.train_seconds, self.wait_fraction = record["seconds"], record.get("waiting_fraction", self.wait_fraction)
        self._update_bar(record["step"])

    def _on_eval(self, record: LogEntry) -> None:
        parts = [f"epoch {record['epoch']:g}/{self._num_epochs()}", *self._train_status()]
        parts += [
            f"{record['split']} loss {record['loss']:.4f}",
            f"{record['split']} accuracy {format_percent(record['top1'])}",
        ]
        self.print(", ".join([*parts, *self._eta(record["step"])]))

    def print(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text))

    def _update_bar(self, step: int) -> None:
        if self._bar is not None:
            epoch = f"epoch {step / self.start_record['steps_per_epoch']:.1f}/{self._num_epochs()}"
            description = ", ".join([epoch, *self._train_status(), *self._eta(step)])
            self._bar.update(self._task, completed=step, description=description)

    def _num_epochs(self) -> str:
        return f"{self.start_record['total_steps'] / self.start_record['steps_per_epoch']:.4g}"

    def _train_status(self) -> list[str]:
        if not self.last_train_record:
            return []
        record = self.last_train_record
        speed = f"{format_int(round(record['images_per_second']))} images/s"
        parts = [f"loss {record['loss']:.4f}", f"accuracy {format_percent(record['top1'])}", speed]
        return (
            [*parts, f"{self.wait_fraction:.0%} waiting for data"] if self.wait_fraction >= MIN_REPORTED_WAIT else parts
        )

    def _eta(self, step: int) -> list[str]:
        remaining_steps = self.start_record["total_steps"] - step
        return (
            [f"ETA {format_duration(self.train_seconds / step * remaining_steps)}"] if step and remaining_steps else []
        )


def format_ranks(record: LogEntry) -> str:
    """How ranks share the global batch, where there are several: " = 4 ranks x 32"."""
    num_ranks = record.get("world_size", 1)
    return f" = {num_ranks} ranks x {record['batch_size'] // num_ranks}" if num_ranks > 1 else ""
