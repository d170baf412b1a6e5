"""Files of the cache folder: downloads, decoded images, what is known about files; all of it can be made again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from reslab.runtime.files import atomic_path


def write_cached(path: Path, write: Callable[[IO[bytes]], Any]) -> bool:
    """Write a file of the cache atomically; return False if it cannot be written (disk full, read-only home).

    Only time depends on the cache, so a cache that cannot be written is not an error.
    """
    try:
        with atomic_path(path) as temp_path, temp_path.open("wb") as file:
            write(file)
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of the cache; empty if there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> bool:
    """Write an object to a JSON file of the cache, as `write_cached` does."""
    return write_cached(path, lambda file: file.write(json.dumps(value).encode()))
