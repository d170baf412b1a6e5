"""The progress callback of long analyses: set it around a call, and the analysis reports through it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ProgressCallback = Callable[[str], None]

_PROGRESS_CALLBACK: ContextVar[ProgressCallback | None] = ContextVar("progress_callback", default=None)


@contextmanager
def progress_callback(callback: ProgressCallback) -> Iterator[None]:
    """Inside the block, analyses call `callback` with their estimated cost, their progress and their notices."""
    token = _PROGRESS_CALLBACK.set(callback)
    try:
        yield
    finally:
        _PROGRESS_CALLBACK.reset(token)


def report_progress(message: str) -> None:
    """Pass `message` to the current callback, if there is one."""
    callback = _PROGRESS_CALLBACK.get()
    if callback is not None:
        callback(message)
