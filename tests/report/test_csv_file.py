"""Cells of CSV files that a spreadsheet would read as formulas."""

import csv
import io

import pytest

from reslab.report.csv_file import encode_csv, original_cell, safe_cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-1;=2", "'=1", "''@x"]
)
def test_a_formula_becomes_text_and_can_be_read_back(text: str) -> None:
    safe = safe_cell(text)
    assert safe == f"'{text}"
    assert original_cell(safe) == text


@pytest.mark.parametrize(
    "cell", [-1.5, 3, True, None, "-0.5", "+3", "-1e-05", "-0.1 0.2 -3", "cat", "", "'quoted'", "a=b"]
)
def test_numbers_and_other_texts_stay(cell: object) -> None:
    assert safe_cell(cell) is cell
    if isinstance(cell, str):
        assert original_cell(cell) == cell


def test_every_cell_of_a_file_is_made_safe() -> None:
    text = encode_csv(["name", "=p"], [["=cmd|x", -0.5], ["a,b", "c\nd"]])
    assert list(csv.reader(io.StringIO(text))) == [["name", "'=p"], ["'=cmd|x", "-0.5"], ["a,b", "c\nd"]]
