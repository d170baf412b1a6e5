"""Files that are whole or not there."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """Nothing more can be written; what was there before is untouched."""


@contextlib.contextmanager
def disk_full_guard(path: Path) -> Iterator[None]:
    """Inside, an error that means a full disk becomes `DiskFull`, which says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL_ERRNOS:
            raise
        raise DiskFullError(
            f"no room to write {path} ({os.strerror(error.errno or 0)}): what was saved before is untouched; "
            "free some space, then give the same command again (reslab train: with --resume)"
        ) from error


def write_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write `content` so that `path` holds either what it held before or all of it, also after a crash or a power cut.

    A temporary file beside it, fsync, rename, fsync of the folder. Raises DiskFull where there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_guard(path):
        descriptor, temp_path = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            os.fchmod(descriptor, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp_path, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp_path)
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot open or sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove the unfinished temporary files that a killed process left in `folder`."""
    for partial_file in folder.glob(".*.part"):
        partial_file.unlink(missing_ok=True)
