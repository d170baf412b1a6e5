"""The tables of the course's coverage page, from `docs/course/coverage.csv` and `docs/course/defects.csv`."""

import csv
import re
from pathlib import Path

from markup import escape

from reslab.report.format import markdown_table

COURSE = Path(__file__).parent.parent / "course"
STATUSES = ("shown", "partly", "not")
KINDS = ("statement", "listing", "output", "figure", "table", "formula", "experiment", "correction")


def read_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file of the course."""
    with (COURSE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def split_links(where: str) -> list[str]:
    """Return the entries of a `where` column: pages with an optional anchor, and commands in backticks."""
    return where.split("; ") if where else []


def coverage_counts() -> str:
    """A row for each source and the total: statements by status, and corrected defects."""
    rows, defects = read_rows("coverage.csv"), read_rows("defects.csv")
    sources = list(dict.fromkeys(row["source"] for row in rows))
    lines: list[list[object]] = []
    for name, chosen in [*((source, [source]) for source in sources), ("**all**", sources)]:
        of_source = [row["status"] for row in rows if row["source"] in chosen]
        num_defects = sum(row["source"] in chosen for row in defects)
        lines.append([name, *map(of_source.count, STATUSES), len(of_source), num_defects])
    return markdown_table(["text", *STATUSES, "statements", "defects corrected"], lines, "lrrrrr")


def coverage_gaps() -> str:
    """The statements that are not fully shown, with the reason."""
    gaps = [row for row in read_rows("coverage.csv") if row["status"] != "shown"]
    lines = [[row["source"], escape(row["statement"]), row["status"], escape(row["reason"])] for row in gaps]
    return markdown_table(["text", "statement", "status", "reason"], lines)


def coverage_by_source() -> str:
    """A heading and a table for each source: its statements in order, and where the course shows them."""
    by_source: dict[str, list[list[object]]] = {}
    for row in read_rows("coverage.csv"):
        line = [escape(row["section"]), escape(row["statement"]), row["kind"], show_links(row["where"]), row["status"]]
        by_source.setdefault(row["source"], []).append(line)
    columns = ["section", "statement", "kind", "chapter or command", "status"]
    return "\n\n".join(f"### {name}\n\n{markdown_table(columns, lines)}" for name, lines in by_source.items())


def course_defects() -> str:
    """A heading and a table for each source: what is wrong in print, what it does, and the correction."""
    by_source: dict[str, list[list[object]]] = {}
    for row in read_rows("defects.csv"):
        cells = [escape(row[key]) for key in ("printed", "effect", "corrected")]
        by_source.setdefault(row["source"], []).append([*cells, show_links(row["where"])])
    columns = ["in print", "effect", "corrected", "chapter"]
    return "\n\n".join(f"### Defects: {name}\n\n{markdown_table(columns, lines)}" for name, lines in by_source.items())


def show_links(where: str) -> str:
    """Return the entries of a `where` column as Markdown: a page as a link named by its heading, a command as code."""
    return "<br>".join(
        entry if entry.startswith("`") else _link(entry, heading_of(entry)) for entry in split_links(where)
    )


def heading_of(entry: str) -> str:
    """Return the heading that a page with an anchor leads to; the page's first one without an anchor.

    Raises KeyError for an anchor that the page lacks.
    """
    page, _, anchor = entry.partition("#")
    headings = page_headings(COURSE / page)
    return headings[anchor] if anchor else next(iter(headings.values()))


def page_headings(page: Path) -> dict[str, str]:
    """Return the headings of a Markdown page by their anchors; comments in code are no headings."""
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {anchor_of(heading): heading for heading in re.findall(r"^#+ (.+)$", text, re.M)}


def anchor_of(heading: str) -> str:
    """Return the anchor that MyST gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _link(entry: str, heading: str) -> str:
    match = re.match(r"(\d\d)-", entry)
    chapter = f"{int(match[1])}: " if match and "#" in entry else ""
    return f"[{chapter}{heading}]({entry})"
