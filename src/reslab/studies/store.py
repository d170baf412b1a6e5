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

from reslab.runtime.files import write_whole
from reslab.spec.arch import Arch
from reslab.spec.config import departures, to_dict
from reslab.spec.errors import refuse
from reslab.spec.study import Asked
from reslab.studies.resolve import Definite
from reslab.training.run import Run

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


# Raised when the same description no longer gives the same results.
NUMERICS_VERSION = 1

_HASHED = ("run/model.safetensors", "run/log.jsonl")
_UNTOLD = ("name", "source", "notes", "model", "axes", "data")


def identity(row: Definite, seed: int) -> dict[str, Any]:
    """All that determines a training: network, recipe, data, seed; names, sources and notes of them do not.

    Values that are the default are left out, so that a new field does not make every entry another one; where a default
    changes, NUMERICS_VERSION is raised.
    """
    assert row.arch is not None
    recipe = None if row.recipe is None else _without(departures(row.recipe))
    return {
        "arch": told_arch(row.arch),
        "recipe": recipe,
        "data": {"name": row.data, "fingerprint": row.fingerprint},
        "num_images": row.num_images,
        "seed": seed,
    }


def told_arch(arch: Arch | None) -> dict[str, Any]:
    """What determines a network, as plain data."""
    return {} if arch is None else _without(departures(arch))


def _without(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in _UNTOLD}


def key_of(identity: Mapping[str, Any], numerics: int = NUMERICS_VERSION) -> str:
    """The first 24 digits of the SHA-256 of an identity and the version of the numerics."""
    text = json.dumps({**identity, "numerics": numerics}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Entry:
    """A folder of the store: `entry.json`, `run/`, `answers/`."""

    path: Path

    @property
    def run_path(self) -> Path:
        """The folder of its training."""
        return self.path / "run"

    @property
    def facts(self) -> dict[str, Any]:
        """entry.json; empty where it is not there or cannot be read."""
        try:
            found = json.loads((self.path / "entry.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and {"key", "status", "files", "values"} <= found.keys() else {}

    @property
    def values(self) -> dict[str, float]:
        """What was measured, by metric."""
        found: dict[str, float] = self.facts.get("values", {})
        return found

    @property
    def run(self) -> Run | None:
        """Its training, as far as it is; None for a network at initialisation."""
        return Run(self.run_path) if (self.run_path / "run.json").is_file() else None

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write entry.json, with the hashes of the files it stands for."""
        files = {name: _hash(self.path / name) for name in _HASHED if (self.path / name).is_file()}
        text = json.dumps({**facts, "files": files}, indent=2, allow_nan=False)
        write_whole(self.path / "entry.json", text.encode())

    def damage(self) -> str:
        """What is wrong with a finished entry, in words; empty where nothing is."""
        if not (self.path / "entry.json").is_file():
            return ""
        facts = self.facts
        if not facts:
            return "entry.json cannot be read"
        if facts["key"] != self.path.name:
            return f"entry.json is of the entry {facts['key']}"
        for name, known in facts["files"].items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is gone"
            if _hash(file) != known:
                return f"{name} is not what was written"
        return ""

    def clear(self) -> None:
        """Forget what is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def answer_path(self, asked: Asked) -> Path:
        """Where the answer to a question is kept."""
        told = json.dumps(to_dict(asked) | {"rows": None}, sort_keys=True)
        where = "" if asked.at == "weights" else f"@{asked.at}"
        return self.path / "answers" / f"{asked.question}{where}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.json"

    def answer(self, asked: Asked) -> dict[str, Any] | None:
        """The answer to a question, None where it was not asked or the file cannot be read."""
        try:
            found = json.loads(self.answer_path(asked).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found["answer"] if isinstance(found, dict) and "answer" in found else None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Store:
    """The entries in a folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def check(self) -> None:
        """Make the folder where it is not there; raises ValueError where nothing can be written into it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path) as file:
                file.write(b"room")
        except OSError as error:
            step = "name another with --store"
            raise refuse(
                "a folder for the store that can be written", f"{self.path} ({error.strerror})", "", step
            ) from None

    def entry(self, key: str) -> Entry:
        """The entry of that key, which need not be there yet."""
        return Entry(self.path / key)

    def entries(self) -> list[Entry]:
        """Every entry that is finished and can be read."""
        folders = sorted(self.path.iterdir()) if self.path.is_dir() else []
        return [entry for entry in map(Entry, folders) if entry.facts]

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Inside, the entry is ours; raises Taken where another worker has it."""
        return held(self.path / f"{key}.lock")

    def mark_older(self, identity: Mapping[str, Any], key: str) -> list[str]:
        """Mark the entries of the same training under another numerics version as superseded; their keys."""
        marked = []
        for version in range(NUMERICS_VERSION):
            older = self.entry(key_of(identity, version))
            facts = older.facts
            if facts and facts.get("superseded_by") != key:
                write_whole(older.path / "entry.json", json.dumps({**facts, "superseded_by": key}, indent=2).encode())
            if facts:
                marked.append(older.path.name)
        return marked
