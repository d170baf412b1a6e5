"""The cache folder: downloads, decoded pictures and what is known of files; everything in it can be made again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from reslab.runtime.files import atomic_path


def cache_dir() -> Path:
    """`$RESLAB_CACHE`, or `~/.cache/reslab`; not created here."""
    env_dir = os.environ.get("RESLAB_CACHE")
    return Path(env_dir).expanduser() if env_dir else Path.home() / ".cache" / "reslab"


def write_cached(path: Path, write: Callable[[IO[bytes]], Any]) -> bool:
    """Write a file of the cache whole or not at all; False where it cannot be (a full disk, a read-only home).

    Nothing depends on the cache but time, so a cache that cannot be written stops nobody.
    """
    try:
        with atomic_path(path) as temp_path, temp_path.open("wb") as file:
            write(file)
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary in a JSON file of the cache; empty where there is none or it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> bool:
    """Write a dictionary to a JSON file of the cache, as `write_cached` does."""
    return write_cached(path, lambda file: file.write(json.dumps(value).encode()))
