"""One worker an entry: a file that only one can create, with its owner; one left by the dead is taken away."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BEAT_SECONDS = 20.0
STALE_SECONDS = 300.0


class Taken(Exception):
    """Another worker has it; `str()` tells who."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Inside, the lock `path` is ours. Raises Taken where a live worker has it.

    Its owner is dead where its process is gone from this machine, or the file was not touched for five minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _create(path):
        _take_away(path)
        if not _create(path):
            raise Taken(owner(path))
    done = threading.Event()
    beat = threading.Thread(target=_touch, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        path.unlink(missing_ok=True)


def owner(path: Path) -> str:
    """Who has the lock, in words."""
    told = _read(path)
    return f"process {told['pid']} on {told['host']}" if told else "another process"


def _create(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    return True


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"pid", "host"} <= found.keys() else {}


def _take_away(path: Path) -> None:
    """Remove a lock whose owner is dead; of several who find it so one removes it, the others see the next owner's."""
    with (path.parent / ".taking").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if _is_stale(path):
            path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        untouched_seconds = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    told = _read(path)
    if not told or untouched_seconds > STALE_SECONDS:
        return untouched_seconds > BEAT_SECONDS  # one that was created a moment ago may not be written yet
    return told["host"] == socket.gethostname() and not _alive(int(str(told["pid"])))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _touch(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
