"""Locks between processes: a file that names its owner and that its owner renews; the lock of a dead one is free."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

HEARTBEAT_SECONDS = 20.0
LEASE_SECONDS = 300.0


class LockHeldError(Exception):
    """Another process holds the lock; the message names it."""


class FileLock:
    """The lock in the file `path`, which one process at a time can hold.

    The lock of a process that died on this machine is free at once. One of another machine, which may share the folder
    over a network file system, is free when its owner has not renewed it for five minutes. Keep the object from one try
    to the next: clocks of different machines cannot be compared, so it measures the five minutes itself; with
    `trust_file_times` the times of files in the folder, which have one clock, count too.
    """

    def __init__(self, path: Path, trust_file_times: bool = False) -> None:
        self.path, self.trust_file_times = path, trust_file_times
        self._since_path = path.with_name(f"{path.name}.since")
        self._lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock inside the block, creating its folder. Raises LockHeldError if another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            if not self._is_abandoned():
                raise LockHeldError(self.owner_text()) from None
            self._take_over()
        with contextlib.suppress(OSError):
            self._since_path.write_text(time.strftime("%Y-%m-%d %H:%M:%S %z"), encoding="utf-8")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._since_path.unlink(missing_ok=True)
            self._lease.release()

    def owner_text(self) -> str:
        """Return who holds the lock: process, host, and since when."""
        owner = self._lease.owner
        if owner is None:
            return "another process"
        try:
            since = f" since {self._since_path.read_text(encoding='utf-8').strip()}"
        except (OSError, UnicodeDecodeError):
            since = ""
        return f"process {owner.pid} on {owner.hostname}{since}"

    def _is_abandoned(self) -> bool:
        """Return True for the lock of another machine that by the times of files was not renewed for long."""
        owner = self._lease.owner
        if not self.trust_file_times or owner is None or owner.hostname == socket.gethostname():
            return False
        probe = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.path.stat().st_mtime > LEASE_SECONDS
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)

    def _take_over(self) -> None:
        self.path.unlink(missing_ok=True)
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            raise LockHeldError(self.owner_text()) from None
