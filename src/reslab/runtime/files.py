"""Files that are whole or not there."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):
    """Nothing more can be written; what was there before is untouched."""


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Inside, an error that means a full disk becomes `DiskFull`, which says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFull(
            f"no room to write {path} ({os.strerror(error.errno or 0)}): what was saved before is untouched; "
            "free some space, then give the same command again (reslab train: with --resume)"
        ) from error


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write `content` so that `path` holds either what it held before or all of it, also after a crash or a power cut.

    A temporary file beside it, fsync, rename, fsync of the folder. Raises DiskFull where there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            os.fchmod(handle, 0o644)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot open or sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the unfinished temporary files that a killed process left in `folder`."""
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)
