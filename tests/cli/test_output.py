"""Tables and pairs: as wide as their texts in a file, wrapped to the window in a terminal."""

import io
import os
import sys

import pytest

from reslab.cli.output import print_pairs, print_table

LONG = "a reference with several arguments, " * 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal of 80 columns in place of standard output. Not a fixture: pytest replaces stdout after setup."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    return stream


def test_a_table_in_a_file_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "size", "note", ""], [["a", "1,000", LONG, ""], ["bb", "5", "two  spaces", ""]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name   size  note", f"a     1,000  {LONG.strip()}", "bb        5  two  spaces"]


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    print_table(["name", "size", "reference"], [["resnet18", "11,689,512", LONG]])
    lines = terminal.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "11,689,512" in lines[1]
    arguments = " ".join(line[21:].strip() for line in lines[1:])
    assert arguments.split() == LONG.split()


def test_pairs_fit_the_terminal_and_paths_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    path = "/" + "folder/" * 20
    print_pairs([("weights", LONG), ("report", path)])
    lines = terminal.getvalue().splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    assert lines[-1] == f"report   {path}"


def test_columns_that_are_cut_keep_each_row_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 24)))
    print_table(
        ["name", "reference"],
        [("a_long_name_of_a_network", "He et al. 2015, Table 1"), ("b", "Xie")],
        cut=("reference",),
    )
    lines = stream.getvalue().splitlines()
    assert lines[1] == "a_long_name_of_a_network  He et al. 2..."
    assert len(lines) == 3
