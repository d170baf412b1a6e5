"""The folder of a run: its name, its lock, its snapshots, and log.jsonl, a JSON object with a checksum on each line."""

import contextlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.runtime.files import (
    disk_full_guard,
    is_partial_file,
    parse_object,
    remove_partial_files,
    with_checksum,
    without_checksum,
    write_atomic,
)
from reslab.runtime.locks import FileLock, LockHeldError
from reslab.spec.errors import invalid, nearest

SNAPSHOT_DIR = "snapshots"
_SNAPSHOT_PATTERN = re.compile(r"step-(\d{8,})\.safetensors")
_LOCK_NAME = ".lock"


@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, in which one process at a time trains, and remove partial files of dead ones.

    Raises ValueError, naming process, host and time, if another process holds it. The lock of a dead process is free.
    """
    lock = FileLock(path / _LOCK_NAME, trust_file_times=True)
    try:
        with lock.hold():
            remove_partial_files(path)
            yield
    except LockHeldError as error:
        raise invalid(
            "a run in which no other process trains",
            f"{path}, locked by {error}",
            next_step="wait until it ends or stop it, then add --resume; or choose another --output",
        ) from None
    finally:
        if not (path / "run.json").exists():
            with contextlib.suppress(OSError):  # other files are there
                path.rmdir()


def is_non_empty(path: Path) -> bool:
    """Return True if `path` exists and is not an empty folder; the remains of an unfinished start do not count."""
    return path.exists() and (not path.is_dir() or any(not _is_remnant(entry) for entry in path.iterdir()))


def _is_remnant(path: Path) -> bool:
    """Return True for a lock or a partial file, all that a process killed before run.json leaves."""
    return is_partial_file(path) or path.name in (_LOCK_NAME, f"{_LOCK_NAME}.since")


def require_folder_name(output: str | Path | None) -> None:
    """Raise ValueError for an empty text as the folder of a run, as of a variable that is not set."""
    if output == "":
        raise invalid("a folder of the run as output", "an empty text", next_step="./NAME is in the folder you are in")


def require_empty_dir(path: Path) -> None:
    """Raise ValueError if `path` exists and is not an empty folder, or if it cannot be written."""
    if not is_non_empty(path):
        _require_writable(path)
        return
    if (path / "run.json").is_file():
        raise invalid(
            "a new or empty output folder",
            f"{path}, which contains a run",
            next_step="add --resume to continue it, or choose another --output",
        )
    raise invalid(
        "a new or empty output folder", f"{path}, which contains other files", next_step="choose another --output"
    )


def require_run_folder(output: str | Path | None) -> None:
    """Raise ValueError if there is no folder to resume in: a mistyped one would start another run."""
    if output is None:
        raise invalid("output, the folder of the run to resume", "resume without it", next_step="add --output DIR")
    path = Path(output)
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        similar = ", ".join(str(path.parent / name) for name in nearest(path.name, siblings))
        raise invalid(
            "the folder of a run to resume",
            f"{path}, which does not exist",
            similar,
            "omit --resume to start a run there; `reslab runs` lists the runs",
        )


def _require_writable(path: Path) -> None:
    """Raise ValueError if the nearest existing folder above `path` is a file or may not be written."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise unwritable(path, f"{existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise unwritable(path, f"no permission to write in {existing}")


def unwritable(path: Path, reason: str) -> ValueError:
    """Return the error for a folder in which nothing can be written."""
    return invalid("an output folder that can be written", f"{path} ({reason})", next_step="choose another --output")


def make_run_path(model: str, data: str, parent: Path = Path("runs")) -> Path:
    """Return an unused path `runs/<time>-<model>-<data>`."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{make_slug(model)}-{make_slug(data)}"
    names: Iterable[str] = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 1000))
    return next(parent / name for name in names if not (parent / name).exists())


def make_slug(name: str) -> str:
    """Return a name as part of a file name: letters, digits, `.` and `_`, anything else as a dash."""
    return (
        "".join(character if character.isalnum() or character in "._" else "-" for character in name).strip("-")
        or "run"
    )


def list_snapshots(run_path: Path) -> list[tuple[int, Path]]:
    """Return the snapshots in a run's folder as (step, path), in order."""
    matches = (
        (_SNAPSHOT_PATTERN.fullmatch(path.name), path) for path in (run_path / SNAPSHOT_DIR).glob("step-*.safetensors")
    )
    return sorted((int(match[1]), path) for match, path in matches if match)


class DamagedLogWarning(UserWarning):
    """Lines of a log are damaged and were left out; those after them are kept."""


@dataclass(frozen=True)
class LogContent:
    """The readable records of a log, and which lines are damaged, as a text; empty if none are."""

    records: list[dict[str, Any]]
    damage: str = ""


class RunLog:
    """The log in `path`.

    Each line is a record with its checksum as the last key, `crc32`. A last line that a crash cut short is ignored;
    another damaged line is left out, with a warning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Append a record. Raises DiskFullError, and ValueError if a number is not finite."""
        line = _format_line(record)
        with disk_full_guard(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def records(self) -> list[dict[str, Any]]:
        """Return every readable record, in order; empty if there is no file. Warns (DamagedLogWarning) of damage."""
        content = self.read()
        if content.damage:
            warnings.warn(content.damage, DamagedLogWarning, stacklevel=2)
        return content.records

    def read(self) -> LogContent:
        """Return every readable record, in order, and what is damaged."""
        if not self.path.exists():
            return LogContent([])
        *lines, rest = self.path.read_bytes().split(b"\n")
        if rest and _is_complete(rest):  # only its line break is damaged
            lines.append(rest)
        records = [_parse_line(line) for line in lines]
        damaged = [str(number) for number, record in enumerate(records, 1) if record is None]
        numbers = ", ".join(damaged[:5]) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        damage = f"{self.path}: damaged and left out: line {numbers} of {len(lines)}; the other lines are kept"
        return LogContent([record for record in records if record is not None], damage if damaged else "")

    def truncate(self, step: int) -> None:
        """Remove the records after `step`, and lines that are damaged or incomplete."""
        kept = [_format_line(record) for record in self.records() if record.get("step", 0) <= step]
        write_atomic(self.path, "".join(kept).encode())


def _format_line(record: dict[str, Any]) -> str:
    return json.dumps(with_checksum(record), allow_nan=False) + "\n"


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if it is damaged."""
    try:
        return without_checksum(parse_object(line, "log.jsonl"), "log.jsonl")
    except ValueError:
        return None


def _is_complete(text: bytes) -> bool:
    """Return False for a line that a crash cut short: JSON without its end."""
    try:
        json.JSONDecoder().raw_decode(text.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return False
    return True
