"""The tables of README.md, rendered from the kept figures, so that the page and the figures cannot differ.

`python benchmarks/tables.py` writes them between the markers `<!-- table: NAME -->` and `<!-- end -->`, each from
results/NAME.json or records/NAME/result.json. A marker whose file is missing encloses nothing. Needs the standard
library only.
"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RESULTS, RECORDS, PAGE = FOLDER / "results", FOLDER / "records", FOLDER / "README.md"
_REGION = re.compile(r"(?<=<!-- table: )([\w.-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Column:
    """A column of a table: `key` is that of the rows, `format` formats numbers (text without it).

    A list of rounds is written as its median with the smallest and the largest, or with `mean` as the mean with the
    standard deviation.
    """

    key: str
    heading: str
    format: str = ""
    mean: bool = False


def make_result(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
    transposed: bool = False,
    has_mean: bool = False,
) -> dict[str, Any]:
    """Return what the file of a table holds; date, machine and command are added to it.

    `transposed` shows each row as a column, which suits few rows of many values. `has_mean` adds a last row, of the
    mean and standard deviation of every column of numbers.
    """
    described = [asdict(column) for column in columns]
    result = {"title": title, "columns": described, "rows": list(rows), "notes": list(notes), "transposed": transposed}
    return result | {"has_mean": True} if has_mean else result


def render_table(result: Mapping[str, Any]) -> str:
    """Return the Markdown table of a result, and its notes."""
    columns = [Column(**column) for column in result["columns"]]
    cells = [[column.heading for column in columns]]
    cells += [[_format_cell(row.get(column.key), column) for column in columns] for row in result["rows"]]
    if result.get("has_mean"):
        cells.append(["**mean**", *(_format_mean(column, result["rows"]) for column in columns[1:])])
    rules = ["---:" if column.format else "---" for column in columns]
    if result["transposed"]:
        cells = [list(line) for line in zip(*cells, strict=True)]
        rules = ["---", *["---:"] * len(result["rows"])]
    lines = ["| " + " | ".join(line) + " |" for line in (cells[0], rules, *cells[1:])]
    notes = [f"* {note}" for note in result["notes"]]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _format_mean(column: Column, rows: Sequence[Mapping[str, Any]]) -> str:
    return _format_cell([row[column.key] for row in rows], replace(column, mean=True)) if column.format else ""


def _format_cell(value: Any, column: Column) -> str:
    if value is None:
        return ""
    if not isinstance(value, list):
        return format(value, column.format)
    center = statistics.mean(value) if column.mean else statistics.median(value)
    if len(value) == 1:
        return format(center, column.format)
    if column.mean:
        return f"{center:{column.format}} (standard deviation {statistics.stdev(value):{column.format}})"
    return f"{center:{column.format}} ({min(value):{column.format}} to {max(value):{column.format}})"


def render(result: Mapping[str, Any]) -> str:
    """Return the table of a result below a line that says what was measured, how, where and when."""
    machine = dict(result["machine"])
    device, device_name, processor = (machine.pop(key) for key in ("device", "device_name", "processor"))
    caption = f"{processor if device == 'cpu' else device_name}, {machine.pop('num_cores')} cores"
    caption += f", threads: {machine.pop('num_threads')}, load average {machine.pop('load_average'):.1f}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.items() if version)
    command = f"`{result['command']}`: " if "command" in result else ""
    return f"{command}{result['title']}. {caption}, {versions}, {result['date']}.\n\n{render_table(result)}"


def result_path(name: str, is_record: bool) -> Path:
    """Return the file that holds the figures of a table."""
    return RECORDS / name / "result.json" if is_record else RESULTS / f"{name}.json"


def load_results() -> dict[str, dict[str, Any]]:
    """Return the kept results by the name of their table."""
    paths = {path.stem: path for path in RESULTS.glob("*.json")}
    paths |= {path.parent.name: path for path in RECORDS.glob("*/result.json")}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in sorted(paths.items())}


def table_names(page: str) -> list[str]:
    """Return the names of the tables that a page has markers for."""
    return [match[1] for match in _REGION.finditer(page)]


def fill(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with every table rendered again."""

    def region(match: re.Match[str]) -> str:
        table = f"\n{render(results[match[1]])}\n\n" if match[1] in results else ""
        return f"{match[1]}{match[2]}{table}"

    return _REGION.sub(region, page)


def write_tables() -> None:
    """Write the tables of README.md."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), load_results()), encoding="utf-8")


if __name__ == "__main__":
    write_tables()
