"""The store: one folder for each training that a study needed, found again by what determined it.

One worker an entry: a file that only one can create, with its owner; one left by the dead is taken away.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from reslab.runtime.files import write_atomic
from reslab.spec.arch import Arch
from reslab.spec.config import non_default_fields, to_dict
from reslab.spec.errors import invalid
from reslab.spec.study import AnalysisRequest
from reslab.studies.resolve import ResolvedRow
from reslab.training.run import Run

HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 300.0


class LockHeldError(Exception):
    """Another worker has it; `str()` tells who."""


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Inside, the lock `path` is ours. Raises Taken where a live worker has it.

    Its owner is dead where its process is gone from this machine, or the file was not touched for five minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _create_lock(path):
        _remove_stale_lock(path)
        if not _create_lock(path):
            raise LockHeldError(lock_owner(path))
    stop_event = threading.Event()
    heartbeat = threading.Thread(target=_touch, args=(path, stop_event), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop_event.set()
        heartbeat.join()
        path.unlink(missing_ok=True)


def lock_owner(path: Path) -> str:
    """Who has the lock, in words."""
    record = _read_lock(path)
    return f"process {record['pid']} on {record['host']}" if record else "another process"


def _create_lock(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    return True


def _read_lock(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"pid", "host"} <= record.keys() else {}


def _remove_stale_lock(path: Path) -> None:
    """Remove a lock whose owner is dead; of several who find it so one removes it, the others see the next owner's."""
    with (path.parent / ".taking").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if _is_stale(path):
            path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        age_seconds = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    record = _read_lock(path)
    if not record or age_seconds > STALE_SECONDS:
        return age_seconds > HEARTBEAT_SECONDS  # one that was created a moment ago may not be written yet
    return record["host"] == socket.gethostname() and not _is_alive(int(str(record["pid"])))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _touch(path: Path, stop_event: threading.Event) -> None:
    while not stop_event.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


# Raised when the same description no longer gives the same results.
NUMERICS_VERSION = 1

_HASHED_FILES = ("run/model.safetensors", "run/log.jsonl")
_NON_IDENTITY_FIELDS = ("name", "reference", "notes", "model", "arch", "data")


def training_identity(row: ResolvedRow, seed: int) -> dict[str, Any]:
    """All that determines a training: network, recipe, data, seed; names, sources and notes of them do not.

    Values that are the default are left out, so that a new field does not make every entry another one; where a default
    changes, NUMERICS_VERSION is raised.
    """
    assert row.arch is not None
    recipe = None if row.recipe is None else _drop_non_identity(non_default_fields(row.recipe))
    return {
        "arch": arch_identity(row.arch),
        "recipe": recipe,
        "data": {"name": row.data, "fingerprint": row.fingerprint},
        "num_images": row.num_images,
        "seed": seed,
    }


def arch_identity(arch: Arch | None) -> dict[str, Any]:
    """What determines a network, as plain data."""
    return {} if arch is None else _drop_non_identity(non_default_fields(arch))


def _drop_non_identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _NON_IDENTITY_FIELDS}


def entry_key(identity: Mapping[str, Any], numerics_version: int = NUMERICS_VERSION) -> str:
    """The first 24 digits of the SHA-256 of an identity and the version of the numerics."""
    text = json.dumps({**identity, "numerics_version": numerics_version}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class StoreEntry:
    """A folder of the store: `entry.json`, `run/`, `answers/`."""

    path: Path

    @property
    def run_path(self) -> Path:
        """The folder of its training."""
        return self.path / "run"

    @property
    def metadata(self) -> dict[str, Any]:
        """entry.json; empty where it is not there or cannot be read."""
        try:
            metadata = json.loads((self.path / "entry.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return (
            metadata if isinstance(metadata, dict) and {"key", "status", "files", "values"} <= metadata.keys() else {}
        )

    @property
    def values(self) -> dict[str, float]:
        """What was measured, by metric."""
        values: dict[str, float] = self.metadata.get("values", {})
        return values

    @property
    def run(self) -> Run | None:
        """Its training, as far as it is; None for a network at initialisation."""
        return Run(self.run_path) if (self.run_path / "run.json").is_file() else None

    def write(self, metadata: Mapping[str, Any]) -> None:
        """Write entry.json, with the hashes of the files it stands for."""
        files = {name: _hash(self.path / name) for name in _HASHED_FILES if (self.path / name).is_file()}
        text = json.dumps({**metadata, "files": files}, indent=2, allow_nan=False)
        write_atomic(self.path / "entry.json", text.encode())

    def find_damage(self) -> str:
        """What is wrong with a finished entry, in words; empty where nothing is."""
        if not (self.path / "entry.json").is_file():
            return ""
        metadata = self.metadata
        if not metadata:
            return "entry.json cannot be read"
        if metadata["key"] != self.path.name:
            return f"entry.json is of the entry {metadata['key']}"
        for name, expected_hash in metadata["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is gone"
            if _hash(file) != expected_hash:
                return f"{name} is not what was written"
        return ""

    def clear(self) -> None:
        """Forget what is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def result_path(self, request: AnalysisRequest) -> Path:
        """Where the answer to a question is kept."""
        request_text = json.dumps(to_dict(request) | {"rows": None}, sort_keys=True)
        suffix = "" if request.weights == "final" else f"@{request.weights}"
        return (
            self.path
            / "results"
            / f"{request.analysis}{suffix}-{hashlib.sha256(request_text.encode()).hexdigest()[:8]}.json"
        )

    def read_result(self, request: AnalysisRequest) -> dict[str, Any] | None:
        """The answer to a question, None where it was not asked or the file cannot be read."""
        try:
            record = json.loads(self.result_path(request).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record["result"] if isinstance(record, dict) and "result" in record else None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class StudyStore:
    """The entries in a folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def check_writable(self) -> None:
        """Make the folder where it is not there; raises ValueError where nothing can be written into it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path) as file:
                file.write(b"room")
        except OSError as error:
            hint = "name another with --store"
            raise invalid(
                "a folder for the store that can be written", f"{self.path} ({error.strerror})", "", hint
            ) from None

    def entry(self, key: str) -> StoreEntry:
        """The entry of that key, which need not be there yet."""
        return StoreEntry(self.path / key)

    def entries(self) -> list[StoreEntry]:
        """Every entry that is finished and can be read."""
        folders = sorted(self.path.iterdir()) if self.path.is_dir() else []
        return [entry for entry in map(StoreEntry, folders) if entry.metadata]

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Inside, the entry is ours; raises Taken where another worker has it."""
        return hold_lock(self.path / f"{key}.lock")

    def mark_superseded(self, identity: Mapping[str, Any], key: str) -> list[str]:
        """Mark the entries of the same training under another numerics version as superseded; their keys."""
        marked_keys = []
        for version in range(NUMERICS_VERSION):
            old_entry = self.entry(entry_key(identity, version))
            metadata = old_entry.metadata
            if metadata and metadata.get("superseded_by") != key:
                write_atomic(
                    old_entry.path / "entry.json", json.dumps({**metadata, "superseded_by": key}, indent=2).encode()
                )
            if metadata:
                marked_keys.append(old_entry.path.name)
        return marked_keys
