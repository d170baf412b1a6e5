"""Formatting of numbers, tables and metrics, the same on pages, in Markdown, CSV and the terminal."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reslab.spec.task import Metric, Task

_SI_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_int(value: int) -> str:
    """Format an integer with thousands separators: 1727962 is `1,727,962`."""
    return f"{value:,}"


def format_si(value: float) -> str:
    """Format a large number with an SI prefix: 252886208 is `252.9 M`; below 10,000 it is written out."""
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    scale, prefix = next((scale, prefix) for scale, prefix in _SI_PREFIXES if abs(value) >= 0.99995 * scale)
    scaled = value / scale
    decimals = 2 if abs(scaled) < 9.995 else 1
    return f"{scaled:,.{decimals}f} {prefix}"


def format_percent(fraction: float | None, decimals: int = 2) -> str:
    """Format a fraction as `98.06 %`, never rounded up to 100 or down to 0; `–` for None and NaN.

    A value that would round to 0 or 100 gets up to two more decimals. If it still does, it is `< 0.0001 %` or
    `> 99.9999 %` (with two decimals).
    """
    if fraction is None or not math.isfinite(fraction):
        return "–"
    for digits in range(decimals, decimals + 3):
        text = f"{100 * fraction:.{digits}f}"
        is_rounded = (fraction < 1 and float(text) == 100) or (fraction > 0 and float(text) == 0)
        if not is_rounded:
            return f"{text} %"
    step = 10.0**-digits
    return f"< {step:.{digits}f} %" if fraction < 0.5 else f"> {100 - step:.{digits}f} %"


def format_metric_spread(metric: Metric, mean: float, std: float | None, num_seeds: int) -> str:
    """Format the mean of a metric over seeds, with its standard deviation if there are several."""
    if metric.is_fraction:
        return format_spread(mean, std, num_seeds)
    spread = "" if std is None else f" ± {format_number(std, 2)}"
    return f"{format_number(mean)}{spread} (n = {num_seeds})"


def format_spread(mean: float, std: float | None, num_seeds: int) -> str:
    """Format the mean of a fraction over seeds: `71.90 ± 1.12 % (n = 3)`; without a spread for one seed."""
    if std is None:
        return f"{format_percent(mean)} (n = {num_seeds})"
    return f"{100 * mean:.2f} ± {100 * std:.2f} % (n = {num_seeds})"


def format_number(value: float | None, digits: int = 4) -> str:
    """Format a value with `digits` significant digits; `–` for None, `NaN` and `∞` for what is not finite."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:,.{max(0, decimals)}f}"


def format_metric(metric: Metric, value: float | None, decimals: int = 2) -> str:
    """Format a value of a metric: a fraction as a percentage with `decimals`, another with four significant digits."""
    if metric.is_fraction:
        return format_percent(value, decimals)
    return format_number(value)


def format_duration(duration_seconds: float | None) -> str:
    """Format a duration: `4.2 s`, `41 s`, `2 min 05 s`, `1 h 03 min`; `–` for None and NaN."""
    if duration_seconds is None or not math.isfinite(duration_seconds):
        return "–"
    if duration_seconds < 9.95:
        return f"{duration_seconds:.1f} s"
    rounded = round(duration_seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def format_speed(result: Mapping[str, Any]) -> str:
    """Format the speed of a training: `508 images/s, 12 % of the time waiting for data`, and the advice on workers."""
    text = f"{format_int(round(result.get('images_per_second') or 0))} images/s"
    waited, workers = result.get("waiting_fraction"), result.get("advised_workers")
    if waited is not None:
        text += f", {format_percent(waited, 0)} of the time waiting for data"
    return text if workers is None else f"{text} (try --workers {workers})"


def format_shape(sizes: Sequence[int] | str) -> str:
    """Format a shape without its batch dimension: (16, 32, 32) is `16×32×32`."""
    return sizes if isinstance(sizes, str) else "×".join(str(size) for size in sizes)


def pluralize(n: int, singular: str, plural_form: str = "") -> str:
    """Format a counted noun: `no image`, `1 image`, `1,200 images`."""
    if n == 0:
        return f"no {singular}"
    return f"{format_int(n)} {singular if n == 1 else plural_form or singular + 's'}"


def format_times(n: int) -> str:
    """Format a count of events: `once`, `twice`, `31 times`."""
    return {1: "once", 2: "twice"}.get(n, f"{format_int(n)} times")


def format_split(split: object) -> str:
    """Return a split's full name: `validation` for `val`, `training` for `train`, any other as it is."""
    name = str(split or "evaluation")
    return {"val": "validation", "valid": "validation", "train": "training"}.get(name, name)


def is_numeric_cell(cell: object) -> bool:
    """Return True for a cell that holds a number or is empty; columns of such cells are aligned right."""
    if cell in (None, "", "–"):
        return True
    text = str(cell).replace(",", "").replace("−", "-").removesuffix("%").removesuffix("x").lstrip("<> ").strip()
    try:
        float(text)
    except ValueError:
        return False
    return True


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str = "") -> str:
    """Return a Markdown table with padded columns; `align` has `l`, `r` or `c` for each column, `l` where it is short.

    Raises ValueError for a row whose length differs from that of the headers.
    """
    cells = [[_escape_cell(value) for value in row] for row in (headers, *rows)]
    for row in cells:
        if len(row) != len(headers):
            raise ValueError(f"required: rows of {len(headers)} cells, as many as headers; got: {len(row)} in {row}")
    align = align.ljust(len(headers), "l")
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(headers))]
    separators = [_separator_cell(width, alignment) for width, alignment in zip(widths, align, strict=False)]
    lines = [_format_row(cells[0], widths, align), "| " + " | ".join(separators) + " |"]
    return "\n".join(lines + [_format_row(row, widths, align) for row in cells[1:]]) + "\n"


def _escape_cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _separator_cell(width: int, alignment: str) -> str:
    return {"l": "-" * width, "r": "-" * (width - 1) + ":", "c": ":" + "-" * (width - 2) + ":"}[alignment]


def _format_row(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    justify = {"l": str.ljust, "r": str.rjust, "c": str.center}
    justified = (justify[alignment](cell, width) for cell, width, alignment in zip(cells, widths, align, strict=False))
    return "| " + " | ".join(justified) + " |"


def metric_rows(task: Task, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return title and text of each metric that is defined, and of the loss if there is one.

    The metric that selects the weights has the counts of samples beside it, where `values` have them.
    """
    defined = [metric for metric in task.metrics if values.get(metric.name) is not None]
    rows = [(metric.title, format_metric(metric, values[metric.name])) for metric in defined]
    if rows and "num_correct" in values:
        counts = f"{format_int(values['num_correct'])} of {format_int(values['num_samples'])} correct"
        rows[0] = (rows[0][0], f"{rows[0][1]} ({counts})")
    return rows if values.get("loss") is None else [*rows, ("loss", format_number(values["loss"]))]


def main_metric_text(task: Task, values: Mapping[str, Any]) -> str:
    """Return the metric that selects the weights and the loss if there is one: `98.33 %, loss 0.0512`."""
    text = format_metric(task.selection_metric, values.get(task.selection_metric.name))
    return text if values.get("loss") is None else f"{text}, loss {format_number(values['loss'])}"


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
