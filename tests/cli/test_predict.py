"""`reslab predict`: table, JSON and CSV of the same predictions."""

import csv
import io
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_the_promised_keys(command: Command, trained: Path, pictures: Path) -> None:
    outcome = command("predict", trained, pictures, "--json")
    assert outcome.code == 0
    rows = outcome.value["predictions"]
    assert [Path(row["path"]).name for row in rows] == [*(f"{place}.png" for place in range(6)), "broken.png"]
    assert {"name", "probability"} == set(rows[0]["classes"][0])
    assert "error" not in rows[0]
    assert rows[-1]["classes"] == []
    assert "not a picture" in rows[-1]["error"]


def test_csv_and_json_agree(command: Command, trained: Path, pictures: Path) -> None:
    told = command("predict", trained, pictures, "--json", "-k", "2").value["predictions"]
    lines = list(csv.DictReader(io.StringIO(command("predict", trained, pictures, "--csv", "-k", "2").out)))
    assert len(lines) == 6 * 2 + 1
    assert lines[0]["class"] == told[0]["classes"][0]["name"]
    assert float(lines[0]["probability"]) == pytest.approx(told[0]["classes"][0]["probability"], rel=1e-5)
    assert lines[-1]["error"] == told[-1]["error"]


def test_the_table(command: Command, trained: Path, pictures: Path) -> None:
    outcome = command("predict", trained, pictures / "0.png", pictures / "broken.png")
    assert outcome.code == 0
    assert "0.png" in outcome.out
    assert "not a picture" in outcome.out
    assert outcome.err == "1 of 2 files could not be read\n"


def test_nothing_readable_is_a_failure_that_still_tells(command: Command, trained: Path, pictures: Path) -> None:
    outcome = command("predict", trained, pictures / "broken.png", pictures / "gone.png", "--json")
    assert outcome.code == 1
    assert [bool(row["error"]) for row in outcome.value["predictions"]] == [True, True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("RUN", "EMPTY"), "pictures"),
        (("nowhere", "0.png"), "nowhere"),
        (("RUN", "0.png", "--json", "--csv"), "one of"),
    ],
)
def test_mistakes_are_told(command: Command, trained: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    places = {"RUN": trained, "EMPTY": tmp_path}
    outcome = command("predict", *(places.get(word, word) for word in words))
    assert outcome.code == 1
    assert said in outcome.out + outcome.err
    assert "not foreseen" not in outcome.err
