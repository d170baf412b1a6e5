"""Rows written down one by one as they come, so that what was done is not done again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines: first `facts`, which tell how the rows were made, then a row a line.

    With `keep` it is gone on with, a last line that was torn cut off; else it is begun anew.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], keep: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, before = self.read(path) if keep else ([], None)
        if before is None or not rows:
            path.write_text(json.dumps(dict(facts)) + "\n", encoding="utf-8")
        else:
            with path.open("r+b") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)

    @staticmethod
    def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """The rows and the facts; none where there is no journal. A last line without its end is left out."""
        if not path.is_file():
            return [], None
        lines = path.read_bytes().split(b"\n")[:-1]
        found = [json.loads(line) for line in lines]
        return found[1:], found[0] if found else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row down; it outlives this process from here on."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def remove(self) -> None:
        """Take the journal away."""
        os.unlink(self.path)
