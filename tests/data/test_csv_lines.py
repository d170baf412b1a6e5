"""Lines of CSV files as spreadsheets write them."""

from pathlib import Path

import pytest

from reslab.data.csv_lines import csv_lines


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_lie_apart_by_what_the_first_line_has(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(f'\ufeffpath{mark}label\r\n\r\n"a{mark}b.png"{mark}cat\r\n'.encode())
    assert list(csv_lines(file)) == [(1, ["path", "label"]), (3, [f"a{mark}b.png", "cat"])]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    assert list(csv_lines(tmp_path / "list.csv")) == []


def test_what_is_no_text_or_does_not_close_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes("path\né.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        list(csv_lines(file))
    file.write_text('path\n"a.png\n')
    with pytest.raises(ValueError, match=r"list\.csv:2: not to be read as CSV"):
        list(csv_lines(file))
