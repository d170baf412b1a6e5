"""log.jsonl: one JSON object a line, written as it happens."""

import json
from pathlib import Path
from typing import Any

from reslab.runtime.files import room_for, write_whole


class Log:
    """The lines of a run. A line that a crash cut short is not a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Write one line at the end. Raises DiskFull without room, ValueError where a number is not finite."""
        text = json.dumps(line, allow_nan=False)
        with room_for(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line, in order; empty where there is no file."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8").split("\n")[:-1]:
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return found

    def cut(self, step: int) -> None:
        """Forget what was written after `step`, and a torn last line."""
        kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
        write_whole(self.path, "".join(kept).encode())
