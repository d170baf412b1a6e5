"""Atomic file writing (a file holds its old content or all of its new, also after a crash), and the cache folder."""

import contextlib
import errno
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# A writer's temporary file is named `.NAME.PID@HOST.RANDOM.part`.
_PARTIAL_NAME = re.compile(r"\..+\.(\d+)@(.*)\.[^.]*\.part")
# Nothing takes this long to write: the file of a writer on another machine is then that of a dead one.
_ABANDONED_SECONDS = 24 * 3600.0
_open_partial_files: set[Path] = set()

_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """The disk is full or the quota is used up; the file's previous content is intact."""


@contextlib.contextmanager
def disk_full_guard(
    path: Path,
    saved: str = "files saved before are intact",
    next_step: str = "run the same command again (reslab train: with --resume)",
) -> Iterator[None]:
    """Turn an OSError that means a full disk into a `DiskFullError` that names `path`, what is `saved` and what to do
    after freeing space."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        if error.errno not in _DISK_FULL_ERRNOS:
            raise
        reason = os.strerror(error.errno or 0)
        message = f"no space left to write {path} ({reason}): {saved}; free some space, then {next_step}"
        raise DiskFullError(message) from error


def cache_dir() -> Path:
    """Return the cache folder: `$RESLAB_CACHE`, `$XDG_CACHE_HOME/reslab` or `~/.cache/reslab`; it may not exist yet.

    As the XDG Base Directory Specification requires, a relative `XDG_CACHE_HOME` is ignored.
    """
    own_dir, xdg_dir = os.environ.get("RESLAB_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    if own_dir:
        return Path(own_dir).expanduser()
    return (xdg_dir if xdg_dir.is_absolute() else Path.home() / ".cache") / "reslab"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`; on success it replaces `path`, on an error it is removed.

    The temporary file is flushed to disk (fsync) before the rename, and the folder after it, so that a power cut leaves
    the old content or the new, never a mixture. For libraries that insist on opening the file themselves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    prefix = f".{path.name}.{os.getpid()}@{_host_name()}."
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    os.close(descriptor)
    temp_path = Path(name)
    _open_partial_files.add(temp_path)
    try:
        yield temp_path
        temp_path.chmod(0o644)  # mkstemp creates a file that only its owner can read
        _sync(temp_path)
        os.replace(temp_path, path)
    finally:
        with contextlib.suppress(OSError):
            temp_path.unlink(missing_ok=True)
        _open_partial_files.discard(temp_path)
    with contextlib.suppress(OSError):  # some file systems cannot open or sync a folder
        _sync(path.parent)


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically, creating the folder. Raises DiskFullError, OSError."""
    with disk_full_guard(path), atomic_path(path) as temp_path, temp_path.open("wb") as file:
        file.write(content)


def is_partial_file(path: Path) -> bool:
    """Return True for the name of a temporary file of `atomic_path`."""
    return path.name.startswith(".") and path.name.endswith(".part")


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that dead processes left in `folder` and its subfolders."""
    for partial_file in folder.rglob(".*.part"):
        if not _is_being_written(partial_file):
            with contextlib.suppress(OSError):
                partial_file.unlink(missing_ok=True)


def _is_being_written(path: Path) -> bool:
    """Return True unless the file is one of `atomic_path`, and the process that wrote it is known to be dead."""
    match = _PARTIAL_NAME.fullmatch(path.name)
    if match is None:
        return True
    pid, host = int(match[1]), match[2]
    if host == _host_name() and pid == os.getpid():
        return path in _open_partial_files
    if host == _host_name() and not _is_alive(pid):
        return False
    try:
        return time.time() - path.stat().st_mtime < _ABANDONED_SECONDS
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill with signal 0 ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
