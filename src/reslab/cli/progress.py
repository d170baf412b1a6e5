"""What a training run shows while it runs: a live line in a terminal, plain lines elsewhere; all on standard error."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text

from reslab.report.format import format_duration, format_int, format_percent

Line = dict[str, Any]

LEAST_WAITING = 0.05


class Display:
    """Receives the lines of a run (`show` of `train`): one line an evaluation; in a terminal a bar moves between."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.start: Line = {"total": 0, "step": 0, "steps_per_epoch": 1}
        self.trained: Line = {}
        self.seconds = 0.0
        self.waiting = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, line: Line) -> None:
        """Take one line of the run."""
        receive = getattr(self, f"_on_{line['kind']}", None)
        if receive is not None:
            receive(line)

    def _on_note(self, line: Line) -> None:
        self.print(f"note: {line['text']}")

    def _on_start(self, line: Line) -> None:
        self.start = line
        self.print(f"{line['model']} ({format_int(line['params'])} parameters) on {line['data']}")
        self.print(
            f"recipe {line['recipe']}, batch {line['batch']}{shared(line)}, {line['precision']}, on {line['device']}: "
            f"{format_int(line['total'])} steps, into {line['run']}"
        )
        if self.console.is_terminal:
            columns: tuple[ProgressColumn, ...] = (BarColumn(24), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=line["total"], completed=line["step"])
            self._bar.start()

    def _on_train(self, line: Line) -> None:
        self.trained = line
        self.seconds = line["seconds"]
        self._move(line["step"])

    def _on_progress(self, line: Line) -> None:
        self.seconds, self.waiting = line["seconds"], line.get("waiting", self.waiting)
        self._move(line["step"])

    def _on_eval(self, line: Line) -> None:
        words = [f"epoch {line['epoch']:g}/{self._num_epochs()}", *self._training()]
        words += [
            f"{line['split']} loss {line['loss']:.4f}",
            f"{line['split']} accuracy {format_percent(line['top1'])}",
        ]
        self.print(", ".join([*words, *self._time_left(line["step"])]))

    def print(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text))

    def _move(self, step: int) -> None:
        if self._bar is not None:
            epoch = f"epoch {step / self.start['steps_per_epoch']:.1f}/{self._num_epochs()}"
            words = ", ".join([epoch, *self._training(), *self._time_left(step)])
            self._bar.update(self._task, completed=step, description=words)

    def _num_epochs(self) -> str:
        return f"{self.start['total'] / self.start['steps_per_epoch']:.4g}"

    def _training(self) -> list[str]:
        if not self.trained:
            return []
        line = self.trained
        speed = f"{format_int(round(line['images_per_second']))} images/s"
        words = [f"loss {line['loss']:.4f}", f"accuracy {format_percent(line['top1'])}", speed]
        return [*words, f"{self.waiting:.0%} waiting for data"] if self.waiting >= LEAST_WAITING else words

    def _time_left(self, step: int) -> list[str]:
        left = self.start["total"] - step
        return [f"ETA {format_duration(self.seconds / step * left)}"] if step and left else []


def shared(line: Line) -> str:
    """How ranks share the global batch, where there are several: " = 4 ranks x 32"."""
    num = line.get("num_ranks", 1)
    return f" = {num} ranks x {line['batch'] // num}" if num > 1 else ""
