"""The tables that lead from the texts to the chapters: counts, statuses, and links that exist."""

import re
import shlex
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS / "_ext"))
import course_tables  # noqa: E402

from reslab.cli.commands import COMMANDS  # noqa: E402

COVERAGE, DEFECTS = course_tables.read_rows("coverage.csv"), course_tables.read_rows("defects.csv")
NUM_STATEMENTS = {"A": 28, "B": 10, "C": 32, "D": 66, "E": 46}


def test_every_statement_of_the_texts_has_one_row() -> None:
    ids = [f"{letter}{number}" for letter, count in NUM_STATEMENTS.items() for number in range(1, count + 1)]
    assert [row["id"] for row in COVERAGE] == ids
    assert len(ids) == 182
    assert len({(row["id"][0], row["source"]) for row in COVERAGE}) == len(NUM_STATEMENTS)


def test_statuses_are_known_and_gaps_have_a_reason() -> None:
    counts = Counter(row["status"] for row in COVERAGE)
    assert set(counts) <= set(course_tables.STATUSES)
    assert counts["shown"] >= 165
    assert {row["kind"] for row in COVERAGE} == set(course_tables.KINDS)
    assert [row["id"] for row in COVERAGE if bool(row["reason"]) == (row["status"] == "shown")] == []
    assert [row["id"] for row in COVERAGE if not row["where"] or not row["section"] or not row["statement"]] == []


def test_every_defect_has_its_effect_and_its_correction() -> None:
    assert len(DEFECTS) == 52
    assert all(all(row.values()) for row in DEFECTS)
    assert {row["source"] for row in DEFECTS} == {row["source"] for row in COVERAGE}


def test_links_and_commands_of_the_tables_exist() -> None:
    for row in (*COVERAGE, *DEFECTS):
        for entry in course_tables.split_links(row["where"]):
            if entry.startswith("`"):
                program, command, *_ = shlex.split(entry.strip("`"))
                assert (program, command in COMMANDS) == ("reslab", True), entry
            else:
                page, _, anchor = entry.partition("#")
                headings = course_tables.page_headings(course_tables.COURSE / page)
                assert not anchor or anchor in headings, entry


def test_the_totals_on_the_page_are_those_of_the_files() -> None:
    *_, total = course_tables.coverage_counts().strip().splitlines()
    cells = [cell.strip() for cell in total.strip("|").split("|")]
    counts = Counter(row["status"] for row in COVERAGE)
    assert cells[1:] == [*(str(counts[status]) for status in course_tables.STATUSES), "182", "52"]


def test_every_cell_of_a_chapter_is_python() -> None:
    for chapter in sorted(course_tables.COURSE.glob("[0-9][0-9]-*.md")):
        cells = re.findall(r"^```\{code-cell\}\n(.*?)^```$", chapter.read_text(encoding="utf-8"), re.M | re.S)
        assert len(cells) > 10
        for cell in cells:
            code = re.sub(r"\A(?:---\n.*?^---\n|(?::[\w-]+:[^\n]*\n)+)", "", cell, flags=re.M | re.S)
            compile(code, chapter.name, "exec")


def test_each_chapter_links_to_the_next() -> None:
    chapters = sorted(course_tables.COURSE.glob("[0-9][0-9]-*.md"))
    assert len(chapters) == 11
    for chapter, following in pairwise(chapters):
        end = chapter.read_text(encoding="utf-8")[-600:]
        assert re.search(rf"\[Next: [^\]]+\]\({following.name}\)", end), chapter.name
