"""Ctrl-C and SIGTERM, taken at the end of a step, so that what is saved is whole."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped from outside; its state is saved. `str()` says where, and how to go on."""

    on_every_rank = True


class InterruptHandler:
    """While open, the first Ctrl-C (or SIGTERM) only sets `asked`; the second raises KeyboardInterrupt at once.

    A `patient` one takes no second: a launcher that also sends on what a terminal or a scheduler sent means one.
    Outside the main thread, where no handler can be set, it does nothing.
    """

    def __init__(self, ignore_repeats: bool = False) -> None:
        self.requested, self.ignore_repeats = False, ignore_repeats
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "InterruptHandler":
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                signum: signal.signal(signum, self._handle_signal) for signum in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)

    def _handle_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.requested and not self.ignore_repeats:
            raise KeyboardInterrupt
        self.requested = True
