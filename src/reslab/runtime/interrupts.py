"""Handling of Ctrl-C and SIGTERM: training stops at the end of a step, so that a checkpoint is never half a step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal and its checkpoint is saved; the message says where and how to resume."""

    on_every_rank = True


class InterruptHandler:
    """Context in which the first SIGINT or SIGTERM only sets `requested`; the second raises KeyboardInterrupt.

    With `ignore_repeats` later signals are ignored: a launcher forwards what a terminal or scheduler has already sent
    to every process, so one request arrives twice. Outside the main thread, where Python allows no handler, it does
    nothing.
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
