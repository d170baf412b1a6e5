"""Points of a landscape as they are measured, kept in a file so that a measurement can be gone on with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from reslab.spec.errors import refuse

Values = tuple[float | None, ...]


@dataclass
class KeptPoints:
    """Values by kind and coordinates, of one `key` (network, pictures, directions); a file may hold many keys.

    Every value is one line, written at once; a last line that was cut short is measured again. Without a `path`
    nothing is kept.
    """

    path: Path | None
    key: str
    known: dict[tuple[str, tuple[float, ...]], Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        if self.path.is_dir():
            raise refuse("a file to keep points in", f"{self.path}, a folder", str(self.path / "points.jsonl"))
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            self._read(line)

    def _read(self, line: str) -> None:
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            return
        if isinstance(found, dict) and found.get("key") == self.key:
            self.known[found["kind"], tuple(found["at"])] = tuple(found["values"])

    def get(self, kind: str, at: Sequence[float]) -> Values | None:
        """What was measured there; None where nothing was."""
        return self.known.get((kind, tuple(at)))

    def put(self, kind: str, at: Sequence[float], values: Values) -> Values:
        """Keep what was measured there."""
        self.known[kind, tuple(at)] = values
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": self.key, "kind": kind, "at": list(at), "values": list(values)})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return values


def key_of(tensors: Mapping[str, Tensor], words: Sequence[Any]) -> str:
    """16 digits of SHA-256 over tensors by name and over words."""
    found = hashlib.sha256(repr(list(words)).encode())
    for name, tensor in tensors.items():
        found.update(f"{name}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
