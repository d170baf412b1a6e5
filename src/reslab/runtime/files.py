"""Atomic file writing (a file holds its old content or all of its new, also after a crash), and the cache folder."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """The disk is full or the quota is used up; the file's previous content is intact."""


@contextlib.contextmanager
def disk_full_guard(path: Path) -> Iterator[None]:
    """Turn an OSError that means a full disk into a `DiskFullError` that names `path` and the next step."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL_ERRNOS:
            raise
        raise DiskFullError(
            f"no space left to write {path} ({os.strerror(error.errno or 0)}): files saved before are intact; "
            "free some space, then run the same command again (reslab train: with --resume)"
        ) from error


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
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    temp_path = Path(name)
    try:
        yield temp_path
        temp_path.chmod(0o644)  # mkstemp creates a file that only its owner can read
        _sync(temp_path)
        os.replace(temp_path, path)
    finally:
        with contextlib.suppress(OSError):
            temp_path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot open or sync a folder
        _sync(path.parent)


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically, creating the folder. Raises DiskFullError, OSError."""
    with disk_full_guard(path), atomic_path(path) as temp_path, temp_path.open("wb") as file:
        file.write(content)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`."""
    for partial_file in folder.glob(".*.part"):
        partial_file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
