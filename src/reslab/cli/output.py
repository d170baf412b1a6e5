"""Printing: results go to standard output, everything else to standard error."""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslab.report.format import is_numeric_cell
from reslab.runtime.files import write_atomic

if TYPE_CHECKING:
    from reslab.report.render import Page


def to_jsonable(value: Any) -> Any:
    """Return `value` as JSON has it: tuples as lists, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {str(name): to_jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """Print the one JSON value of `--json`."""
    text = json.dumps(to_jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # the escapes of JSON, not those of the stream
        text = json.dumps(to_jsonable(value), indent=2, allow_nan=False)
    print(text, flush=True)


@contextlib.contextmanager
def printable_streams() -> Iterator[None]:
    """Inside, standard output and error exist and print any text: what the terminal lacks as a backslash escape.

    A stream that the caller has closed (`>&-`) takes nothing.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or getattr(stream, "closed", False):
                setattr(sys, name, stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
                stack.callback(setattr, sys, name, stream)
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        yield


def reserve_standard_descriptors() -> None:
    """Open the null device as each standard stream that is closed, so that no file of ours becomes that stream."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


# Also the marks that change the direction of the text that follows.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str, kept: str = "") -> str:
    """Return a text with control characters, except those in `kept`, as backslash escapes.

    In the name of a file or class they could end a line, or change what the terminal shows.
    """
    return _CONTROL_CHARACTER.sub(lambda match: match[0] if match[0] in kept else repr(match[0])[1:-1], text)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, optional: Sequence[str] = (), cut: Sequence[str] = ()
) -> None:
    """Print rows under their columns, numbers right-aligned.

    A terminal that is too narrow leaves out `optional` columns, the first named first, and says which; then the texts
    of the columns `cut` end with `...`, so that each row stays one line, or without such columns those of text wrap.
    """
    cells = [["" if cell is None else escape_controls(str(cell)) for cell in row] for row in rows]
    if optional and sys.stdout.isatty():
        columns, cells = _drop_columns(columns, cells, optional, shutil.get_terminal_size().columns)
    right_aligned = [bool(cells) and all(is_numeric_cell(row[index]) for row in cells) for index in range(len(columns))]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    if sys.stdout.isatty():
        fixed = [name not in cut for name in columns] if cut else right_aligned
        widths = _fit_widths(widths, fixed, shutil.get_terminal_size().columns)
        cells = [
            [
                _shorten(text, width) if name in cut else text
                for name, text, width in zip(columns, row, widths, strict=True)
            ]
            for row in cells
        ]
    for row in [list(columns), *cells]:
        # A text that fits is not passed to `wrap`, which would join its runs of spaces.
        wrapped = [
            textwrap.wrap(text, width) if len(text) > width else [text] for text, width in zip(row, widths, strict=True)
        ]
        for line in itertools.zip_longest(*wrapped, fillvalue=""):
            padded = [
                text.rjust(width) if is_right else text.ljust(width)
                for text, width, is_right in zip(line, widths, right_aligned, strict=True)
            ]
            print("  ".join(padded).rstrip())


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def _drop_columns(
    columns: Sequence[str], rows: list[list[str]], optional: Sequence[str], max_width: int
) -> tuple[list[str], list[list[str]]]:
    """Leave out as many of the `optional` columns, in their order, as a table of this width needs."""
    shown, dropped = list(range(len(columns))), []
    widths = [max(len(text) for text in column) for column in zip(columns, *rows, strict=True)]
    for name in optional:
        if sum(widths[index] for index in shown) + 2 * (len(shown) - 1) <= max_width:
            break
        if name in columns:
            shown.remove(columns.index(name))
            dropped.append(name)
    if dropped:
        echo_err(f"columns left out in {max_width} characters: {', '.join(dropped)}; --json has all")
    return [columns[index] for index in shown], [[row[index] for index in shown] for row in rows]


def _fit_widths(widths: Sequence[int], is_fixed: Sequence[bool], max_width: int) -> list[int]:
    """Narrow the widest columns that are not fixed until the row fits, but none below 12 characters."""
    fitted = list(widths)
    while sum(fitted) + 2 * (len(fitted) - 1) > max_width:
        index = max((i for i in range(len(fitted)) if not is_fixed[i]), key=lambda i: fitted[i], default=None)
        if index is None or fitted[index] <= 12:
            break
        fitted[index] -= 1
    return fitted


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and their texts, one pair per line; in a terminal, long texts wrap below themselves."""
    name_width = max(len(name) for name, _ in pairs)
    text_width = shutil.get_terminal_size().columns - name_width - 2 if sys.stdout.isatty() else 0
    for name, text in ((name, escape_controls(text, kept="\n")) for name, text in pairs):
        # Paths are not broken, so that they can be copied.
        lines = textwrap.wrap(text, max(text_width, 20), break_long_words=False, break_on_hyphens=False)
        for index, line in enumerate(lines if text_width and lines else [text]):
            print(f"{'' if index else name:{name_width}}  {line}")


def print_result(payload: Any, rows: Sequence[tuple[str, str]], *, as_json: bool) -> None:
    """Print the result of a command: its one JSON value with --json, its pairs of name and text otherwise."""
    if as_json:
        print_json(payload)
    else:
        print_pairs(rows)


def write_page(path: Path, page: "Page") -> None:
    """Render a page, write it atomically and say where it is."""
    from reslab.report.render import render_page

    write_atomic(path, render_page(page).encode())
    echo_err(f"HTML page: {path}")


def echo_err(text: str) -> None:
    """Print progress or a message for people; if nobody reads them any more, nothing."""
    with contextlib.suppress(OSError, ValueError):  # a closed pipe or terminal, a closed file
        print(escape_controls(text, kept="\n\t"), file=sys.stderr, flush=True)
