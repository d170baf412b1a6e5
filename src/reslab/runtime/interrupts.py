"""Ctrl-C and SIGTERM, taken at the end of a step, so that what is saved is whole."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside; its state is saved. `str()` says where, and how to go on."""

    on_every_rank = True


class Interruption:
    """While open, the first Ctrl-C (or SIGTERM) only sets `asked`; the second raises KeyboardInterrupt at once.

    A `patient` one takes no second: a launcher that also sends on what a terminal or a scheduler sent means one.
    Outside the main thread, where no handler can be set, it does nothing.
    """

    def __init__(self, patient: bool = False) -> None:
        self.asked, self.patient = False, patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self.patient:
            raise KeyboardInterrupt
        self.asked = True
