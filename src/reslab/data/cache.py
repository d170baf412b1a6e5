"""The cache folder: downloads, decoded pictures and what is known of files; everything in it can be made again."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def cache_dir() -> Path:
    """`$RESLAB_CACHE`, or `~/.cache/reslab`; not created here."""
    env_dir = os.environ.get("RESLAB_CACHE")
    return Path(env_dir).expanduser() if env_dir else Path.home() / ".cache" / "reslab"


def write_cached(path: Path, write: Callable[[IO[bytes]], Any]) -> bool:
    """Write a file of the cache whole or not at all; False where it cannot be (a full disk, a read-only home).

    Nothing depends on the cache but time, so a cache that cannot be written stops nobody.
    """
    temp_path = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temp_path = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        os.replace(temp_path, path)
        return True
    except OSError:
        if temp_path is not None:
            Path(temp_path).unlink(missing_ok=True)
        return False


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
