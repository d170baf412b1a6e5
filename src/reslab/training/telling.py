"""What a run tells as it goes: lines into its log and for TensorBoard, progress for who looks on."""

import time
from collections.abc import Callable
from typing import Any

from reslab.training.run import Run
from reslab.training.scalars import Scalars

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
