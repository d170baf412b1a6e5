"""CSV that is safe to open in a spreadsheet: no text in it is read as a formula."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

# What makes spreadsheets read a cell as a formula (OWASP, "CSV Injection"), also after apostrophes.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBERS = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?( [+-]?\d+(\.\d*)?(e[+-]?\d+)?)*", re.IGNORECASE)


def encode_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the header and the rows as CSV, every cell made harmless by `safe_cell`."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([safe_cell(cell) for cell in row] for row in (header, *rows))
    return buffer.getvalue()


def safe_cell(cell: object) -> object:
    """Return a cell with an apostrophe before a text that a spreadsheet would read as a formula.

    Those are texts that begin with `=`, `+`, `-`, `@`, a tab or a line break. Numbers, and texts of numbers, stay as
    they are. `original_cell` is the inverse.
    """
    if not isinstance(cell, str) or _NUMBERS.fullmatch(cell) or not _FORMULA.match(cell):
        return cell
    return f"'{cell}"


def original_cell(cell: str) -> str:
    """Return the text that `safe_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
