"""What is printed, and where: results to standard output, everything else to standard error."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from reslab.report.format import is_numeric_cell


def to_jsonable(value: Any) -> Any:
    """`value` as JSON has it: tuples as lists, and null where a number is not finite."""
    if isinstance(value, dict):
        return {str(name): to_jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """The one JSON value that `--json` promises."""
    print(json.dumps(to_jsonable(value), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under their columns; a column whose every cell is a number (or empty) is set to the right."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    right_aligned = [bool(rows) and all(is_numeric_cell(row[index]) for row in rows) for index in range(len(columns))]
    for line in [list(columns), *cells]:
        padded = [
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right_aligned, strict=True)
        ]
        print("  ".join(padded).rstrip())


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and what belongs to each, one a line."""
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        print(f"{name.ljust(width)}  {text}")


def echo_err(text: str) -> None:
    """Progress and messages for a person."""
    print(text, file=sys.stderr, flush=True)
