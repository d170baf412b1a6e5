"""Atomic file writing (a file holds its old content or all of its new, also after a crash), JSON that may be damaged
or hostile and its checksum, and the cache folder.
"""

import contextlib
import errno
import json
import os
import re
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reslab.spec.errors import invalid

CHECKSUM_KEY = "crc32"


def parse_object(text: str | bytes, source: object) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises ValueError, naming `source`, for anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise invalid("a JSON object", f"{source}, which is nested too deeply") from None
    except ValueError as error:  # malformed JSON, bytes that are no text, an integer of thousands of digits
        raise invalid("a complete JSON object", f"{source}, which is damaged ({error})") from None
    if not isinstance(value, dict):
        raise invalid("a JSON object", f"{source}, which is {type(value).__name__} ({str(value)[:40]!r})")
    return value


def checksum(record: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a record as JSON, 8 hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with its checksum as the last key."""
    plain = {key: value for key, value in record.items() if key != CHECKSUM_KEY}
    return {**plain, CHECKSUM_KEY: checksum(plain)}


def without_checksum(record: Mapping[str, Any], source: object, next_step: str = "") -> dict[str, Any]:
    """Return a record that `with_checksum` made without its checksum. Raises ValueError if it does not fit."""
    plain = {key: value for key, value in record.items() if key != CHECKSUM_KEY}
    expected = checksum(plain)
    if record.get(CHECKSUM_KEY) != expected:
        got = f"{source}, whose checksum is {record.get(CHECKSUM_KEY)} instead of {expected}"
        raise invalid("content as it was written", f"{got}: it was damaged or edited", next_step=next_step)
    return plain


def require_types(record: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], source: object) -> None:
    """Raise ValueError, naming key and type, unless the record has every key with one of its types.

    A dotted key is one of a nested object (`data.classes`). A truth value is not a number.
    """
    for key, allowed in types.items():
        value: Any = record
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise invalid(f"the key {key}", f"{source} without it", next_step="it is damaged, or of other software")
            value = value[part]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join("null" if item is type(None) else item.__name__ for item in allowed)
            raise invalid(f"{key} as {names}", f"{str(value)[:40]!r} in {source}")


def require_strings(value: Any, key: str, source: object) -> None:
    """Raise ValueError unless `value` is a list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"{key} as a list of strings", f"{str(value)[:40]!r} in {source}")


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

    As the XDG Base Directory Specification requires, a relative `XDG_CACHE_HOME` is ignored. A user without a home, as
    of a container's, has a folder that cannot exist: nothing is cached. Raises ValueError for a `RESLAB_CACHE` in an
    unknown home.
    """
    own_dir, xdg_dir = os.environ.get("RESLAB_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    if own_dir:
        try:
            return Path(own_dir).expanduser()
        except RuntimeError as error:
            step = "set it to another folder"
            raise invalid("a folder as RESLAB_CACHE", f"{own_dir!r} ({error})", next_step=step) from None
    if xdg_dir.is_absolute():
        return xdg_dir / "reslab"
    try:
        return Path.home() / ".cache" / "reslab"
    except RuntimeError:
        return Path(os.devnull) / "reslab"


def can_search(folder: Path) -> bool:
    """Return False for a folder that this user may not look into, or that no system can have; True if there is none."""
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return os.access(folder, os.R_OK | os.X_OK)


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
