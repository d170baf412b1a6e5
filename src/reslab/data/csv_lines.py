"""The lines of a CSV file as spreadsheets write it."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from reslab.spec.errors import refuse


def csv_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not empty, the header first, with its number in the file: cells apart by comma, semicolon or
    tab, whichever the first line has.

    Raises ValueError for text that is not UTF-8, and for quotes that do not close.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"{file} in UTF-8", str(error), next_step="save it as UTF-8") from None
    first = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal point.
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: not to be read as CSV ({error})") from None
