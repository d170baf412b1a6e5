"""log.jsonl: the records of a run, one JSON object a line, each with a checksum."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.runtime.files import disk_full_guard, parse_object, with_checksum, without_checksum, write_atomic


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
