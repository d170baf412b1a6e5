"""The result of a part of the GPU benchmark: a JSON file, rewritten after every row, so that none is lost."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

REQUIRED_DATA = {
    "data": "no data: --data FOLDER with train-*.tar and test-*.tar of CIFAR-10",
    "bccd": "no data: --bccd FOLDER with JPEGImages/, Annotations/ and ImageSets/ of BCCD",
}
"""Why a part is skipped, by the option that names its data."""


class Status(StrEnum):
    """The state of a part."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class PartArgs:
    """The arguments of a part: `seconds` is the time it may take, `small` asks for tiny settings."""

    result: Path
    seconds: float
    data: Path | None
    small: bool
    bccd: Path | None = None


def parse_part_args(description: str | None) -> PartArgs:
    """Return the arguments that `run.py` gives a part."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--result", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=float, default=600.0, help="the time that the part may take")
    parser.add_argument("--data", type=Path, help="a folder of CIFAR-10 shards, not compressed")
    parser.add_argument("--bccd", type=Path, help="a folder of BCCD in the layout of VOC")
    parser.add_argument("--small", action="store_true", help="tiny settings")
    args = parser.parse_args()
    return PartArgs(args.result, args.seconds, args.data, args.small, args.bccd)


class PartResult:
    """The result of a part: a line, tables of rows by title, notes, data; every change is written to `path` at once."""

    def __init__(self, path: Path, seconds: float = 600.0) -> None:
        self.path, self._start, self._limit = path, time.perf_counter(), seconds
        self.values: dict[str, Any] = {"status": Status.RUNNING, "line": "", "tables": {}, "notes": [], "data": {}}
        self._write()

    @property
    def seconds_left(self) -> float:
        """The time that is left for the part, less a reserve for its end."""
        return self._limit - (time.perf_counter() - self._start) - 3.0

    def add(self, title: str, **row: Any) -> None:
        """Add a row to the table of this title, and print it."""
        self.values["tables"].setdefault(title, []).append(row)
        print(f"{title}: " + ", ".join(f"{key} {format_value(value)}" for key, value in row.items()), flush=True)
        self._write()

    def set_rows(self, title: str, rows: Sequence[dict[str, Any]]) -> None:
        """Replace the table of this title."""
        self.values["tables"][title] = list(rows)
        self._write()

    def set_data(self, name: str, value: Any) -> None:
        """Set a value that the summary leaves out, such as curves."""
        self.values["data"][name] = value
        self._write()

    def note(self, text: str) -> None:
        """Add a remark."""
        self.values["notes"].append(text)
        print(text, flush=True)
        self._write()

    def set_line(self, text: str) -> None:
        """Set the one line that sums the part up so far."""
        self.values["line"] = text
        self._write()

    def finish(self, status: Status = Status.DONE) -> None:
        """Record how the part ended."""
        self.values["status"] = status
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.values)


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file in one step, so that a process that is killed leaves the version before."""
    temp_path = path.with_name(f".{path.name}.tmp")
    temp_path.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(temp_path, path)


def format_value(value: Any) -> str:
    """Return a value of a row as text: numbers with four significant digits, large ones with separators."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a Markdown table with the columns of all of them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(format_value(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def mean_and_std(values: Sequence[float]) -> str:
    """Return the mean and, of several values, the standard deviation as text."""
    spread = f" (standard deviation {statistics.stdev(values):.3g})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{spread}"
