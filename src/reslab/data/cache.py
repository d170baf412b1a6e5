"""The cache folder: downloads, decoded pictures and what is known of files; everything in it can be made again.

Looking through every picture file once: which can be read, how large; remembered while the files stay the same.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from reslab.data.decode import check_picture
from reslab.data.formats.class_folders import name_in


def cache_dir() -> Path:
    """`$RESLAB_CACHE`, or `~/.cache/reslab`; not created here."""
    told = os.environ.get("RESLAB_CACHE")
    return Path(told).expanduser() if told else Path.home() / ".cache" / "reslab"


def write_cached(path: Path, write: Callable[[IO[bytes]], Any]) -> bool:
    """Write a file of the cache whole or not at all; False where it cannot be (a full disk, a read-only home).

    Nothing depends on the cache but time, so a cache that cannot be written stops nobody.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
        return True
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a JSON file of the cache; empty where there is none or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> bool:
    """Write a dictionary to a JSON file of the cache, as `write_cached` does."""
    return write_cached(path, lambda file: file.write(json.dumps(value).encode()))


_FORMAT = "1"


@dataclass(frozen=True)
class Scanned:
    """What a look at a file told: its height and width in pixels, or why it cannot be read."""

    path: Path
    height: int = 0
    width: int = 0
    error: str = ""


def scan(root: Path, paths: Sequence[Path], what: Path | None = None) -> list[Scanned]:
    """Every file decoded to its end, in threads; results are kept in the cache by (path, size, modification time).

    `what` names the memory, where that is not the folder itself but a table in it.

    140 photographs of 500x375 take about half a second on two cores, a second look a few milliseconds.
    """
    memory = cache_dir() / "scans" / f"{hashlib.sha256(str((what or root).resolve()).encode()).hexdigest()[:24]}.json"
    remembered = read_json(memory)
    known = remembered.get("files", {}) if remembered.get("format") == _FORMAT else {}
    with ThreadPoolExecutor() as pool:
        states = list(pool.map(_state, paths))
        entries = list(pool.map(lambda path, state: _look(path, state, known.get(name_in(root, path))), paths, states))
    files = {name_in(root, path): entry for path, entry in zip(paths, entries, strict=True)}
    if files != known:
        write_json(memory, {"format": _FORMAT, "root": str(root.resolve()), "files": files})
    return [_scanned(path, entry) for path, entry in zip(paths, entries, strict=True)]


def _scanned(path: Path, entry: list[int | str]) -> Scanned:
    _, _, height, width, error = entry
    return Scanned(path, int(height), int(width), str(error))


def _state(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere; looking at it tells
        return [-1, 0]
    return [stat.st_size, stat.st_mtime_ns]


def _look(path: Path, state: list[int], known: list[int | str] | None) -> list[int | str]:
    """[bytes, modification time, height, width, error] of a file, as known or found out now."""
    if known and known[:2] == state:
        return known
    try:
        height, width = check_picture(path)
    except ValueError as error:
        return [*state, 0, 0, str(error).removeprefix(f"{path}: ")]
    return [*state, height, width, ""]
