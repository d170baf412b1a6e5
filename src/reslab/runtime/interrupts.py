"""Handling of Ctrl-C and of signals to stop: training ends at the end of a step, and never saves half a step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal and its checkpoint is saved; the message says where and how to resume.

    `exit_code` is 128 + the number of the signal, as shells have it.
    """

    on_every_rank = True

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum, self.exit_code = signum, 128 + signum


# Ctrl-C, and what schedulers, launchers and closing terminals send. Windows lacks some of them.
_STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class InterruptHandler:
    """Context in which a signal to stop only sets `requested`; a second SIGINT or SIGTERM raises KeyboardInterrupt.

    The signals are SIGINT, SIGTERM, SIGHUP (unless it is ignored, as nohup does), SIGUSR1 and SIGUSR2. With
    `ignore_repeats` later signals are ignored: a launcher forwards what a terminal or scheduler has already sent to
    every process, so one request arrives twice. Outside the main thread, where Python allows no handler, it does
    nothing.
    """

    def __init__(self, ignore_repeats: bool = False) -> None:
        self.requested, self.ignore_repeats = False, ignore_repeats
        self.signum: int = signal.SIGINT
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "InterruptHandler":
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                signum: signal.signal(signum, self._handle_signal)
                for signum in _STOP_SIGNALS
                if signum in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(signum) is not signal.SIG_IGN
            }
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)

    def _handle_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self.signum = True, signum
        elif signum == self.signum and signum in (signal.SIGINT, signal.SIGTERM) and not self.ignore_repeats:
            # A scheduler's SIGTERM after its SIGUSR1 is no second request.
            raise KeyboardInterrupt
