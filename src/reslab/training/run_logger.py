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


def default_show() -> Callable[[dict[str, Any]], None]:
    """A receiver of lines: one changing line in a notebook, `logging.getLogger("reslab")` elsewhere."""
    return _notebook_show() or _log


def _log(line: dict[str, Any]) -> None:
    if line["kind"] != "progress":
        _LOGGER.info("%s", sentence(line))


def _notebook_show() -> Callable[[dict[str, Any]], None] | None:
    try:
        from IPython import get_ipython  # type: ignore[import-not-found]
        from IPython.display import HTML, display  # type: ignore[import-not-found]
    except ImportError:
        return None
    if type(get_ipython()).__name__ != "ZMQInteractiveShell":
        return None
    handle = display(HTML(""), display_id=True)
    last: dict[str, str] = {}

    def show(line: dict[str, Any]) -> None:
        last[line["kind"]] = sentence(line)
        handle.update(HTML("<br>".join(html.escape(text) for text in last.values())))

    return show


def sentence(line: dict[str, Any]) -> str:
    """A line of progress in words."""
    kind = line["kind"]
    if kind == "note":
        return str(line["text"])
    if kind == "start":
        where = f"{line['device']}, {line['precision']}"
        return f"{line['model']} on {line['data']}, {where}: {line['total']:,} steps, into {line['run']}"
    if kind == "progress":
        return f"step {line['step']:,} of {line['total']:,}, {line['seconds']:.0f} s"
    where = f"epoch {line['epoch']:.2f}" if "epoch" in line else f"step {line['step']:,}"
    if kind == "train":
        return (
            f"{where}: loss {line['loss']:.4f}, accuracy {line['top1']:.4f}, {line['images_per_second']:,.0f} images/s"
        )
    if kind == "eval":
        return f"{where}: on {line['split']} loss {line['loss']:.4f}, accuracy {line['top1']:.4f}"
    return f"{where}: " + ", ".join(f"{name} {value}" for name, value in line.items() if name not in ("kind", "step"))


_NOT_DRAWN = ("kind", "split", "step")


def require_tensorboard() -> None:
    """Raise ValueError, with what to do, where TensorBoard is not installed."""
    if not has_tensorboard():
        advice = "pip install 'reslab[tensorboard]', or leave out --tensorboard: log.jsonl holds the same numbers"
        raise invalid("the package tensorboard for --tensorboard", "it is not installed", next_step=advice)


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


Show = Callable[[dict[str, Any]], None]

_PROGRESS_EVERY_SECONDS = 0.25


class Telling:
    """Rank 0's voice; where it is not `first` nothing is said.

    Every line of the log is shown and, where there are `scalars`, its numbers drawn; notes and progress are shown only.
    """

    def __init__(self, run: Run, show: Show, first: bool = True, scalars: Scalars | None = None) -> None:
        self.run, self.show, self.first, self.scalars = run, show, first, scalars
        self._shown = time.perf_counter()

    def write(self, line: dict[str, Any]) -> None:
        """A line that stays."""
        if not self.first:
            return
        self.run.log.append(line)
        if self.scalars is not None:
            self.scalars.write(line)
        self.show(line)

    def note(self, text: str) -> None:
        """What a person should be told."""
        if self.first:
            self.show({"kind": "note", "text": text})

    def progress(self, line: Callable[[], dict[str, Any]]) -> None:
        """How far it is, a few times a second."""
        now = time.perf_counter()
        if self.first and now - self._shown >= _PROGRESS_EVERY_SECONDS:
            self._shown = now
            self.show({"kind": "progress", **line()})

    def begin(self, step: int) -> None:
        """The run goes on after `step` steps: what was told of later ones is forgotten."""
        if self.first:
            self.run.log.cut(step)
            if self.scalars is not None:
                self.scalars.begin(step)

    def end(self) -> None:
        """Nothing more follows."""
        if self.scalars is not None:
            self.scalars.end()
