"""How numbers and tables are written, the same on a page, in Markdown and in the terminal."""

import math
from collections.abc import Sequence

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: int) -> str:
    """A whole number with its thousands set apart: 1727962 is `1,727,962`."""
    return f"{number:,}"


def amount(number: float) -> str:
    """A large number in four digits and a scale: 252886208 is `252.9 M`; below ten thousand it is written out."""
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    scale, letter = next((scale, letter) for scale, letter in _SCALES if abs(number) >= 0.99995 * scale)
    digits = number / scale
    decimals = 2 if abs(digits) < 9.995 else 1
    return f"{digits:,.{decimals}f} {letter}"


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction as `98.06 %`; never rounded up to all or down to nothing, and `–` where there is none."""
    if fraction is None or not math.isfinite(fraction):
        return "–"
    text = f"{100 * fraction:.{decimals}f}"
    while decimals < 6 and ((fraction < 1 and float(text) == 100) or (fraction > 0 and float(text) == 0)):
        decimals += 1
        text = f"{100 * fraction:.{decimals}f}"
    return f"{text} %"


def number(value: float | None, digits: int = 4) -> str:
    """A measured value in `digits` significant digits, `–` for None and `not a number` for NaN."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:,.{max(0, decimals)}f}"


def seconds(duration_seconds: float | None) -> str:
    """A duration in words: `4.2 s`, `41 s`, `2 min 05 s`, `1 h 03 min`."""
    if duration_seconds is None or not math.isfinite(duration_seconds):
        return "–"
    if duration_seconds < 9.95:
        return f"{duration_seconds:.1f} s"
    whole = round(duration_seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shape(sizes: Sequence[int] | str) -> str:
    """An output's shape without its batch: (16, 32, 32) is `16×32×32`."""
    return sizes if isinstance(sizes, str) else "×".join(str(size) for size in sizes)


def plural(number_of: int, one: str, many: str = "") -> str:
    """A counted noun: `no mistake`, `1 mistake`, `1,200 mistakes`."""
    if number_of == 0:
        return f"no {one}"
    return f"{count(number_of)} {one if number_of == 1 else many or one + 's'}"


def is_number(cell: object) -> bool:
    """Whether a cell of a table is a number, or stands where one could: such columns are set to the right."""
    if cell in (None, "", "–"):
        return True
    text = str(cell).replace(",", "").replace("−", "-").removesuffix("%").removesuffix("x").strip()
    try:
        float(text)
    except ValueError:
        return False
    return True


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str = "") -> str:
    """A Markdown table, its columns padded to line up; `align` has one of `l`, `r`, `c` a column, left where absent.

    Raises ValueError where a row is not as long as the headers.
    """
    cells = [[_cell(value) for value in row] for row in (headers, *rows)]
    for row in cells:
        if len(row) != len(headers):
            raise ValueError(f"required: rows of {len(headers)} cells, as many as headers; got: {len(row)} in {row}")
    align = align.ljust(len(headers), "l")
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(headers))]
    rule = [_rule(width, side) for width, side in zip(widths, align, strict=False)]
    lines = [_line(cells[0], widths, align), "| " + " | ".join(rule) + " |"]
    return "\n".join(lines + [_line(row, widths, align) for row in cells[1:]]) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _rule(width: int, side: str) -> str:
    return {"l": "-" * width, "r": "-" * (width - 1) + ":", "c": ":" + "-" * (width - 2) + ":"}[side]


def _line(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    place = {"l": str.ljust, "r": str.rjust, "c": str.center}
    placed = (place[side](cell, width) for cell, width, side in zip(cells, widths, align, strict=False))
    return "| " + " | ".join(placed) + " |"
