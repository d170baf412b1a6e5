"""Prediction files: they are read back as written, and finished rows are not computed again."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from reslab.deploy.inputs import InputItem
from reslab.deploy.outputs import PredictionFile
from reslab.deploy.prediction import ClassScore, Prediction
from reslab.deploy.prediction_formats import PREDICTION_FORMATS, format_csv
from reslab.runtime.files import DiskFullError
from tests.full_disk import largest_file

FACTS = {"weights": "abc", "top_k": 2}
GOOD = Prediction(
    "a, b.png", (ClassScore("cät", 0.75), ClassScore("dog", 0.25)), embedding=(0.5, -1.25), grad_cam="maps/a.png"
)
PLAIN = Prediction("b.png", (ClassScore("dog", 1.0),))
BROKEN = Prediction("c.png", error='not an "image"')
EVERY = [GOOD, PLAIN, BROKEN]


def items(*rows: Prediction) -> list[InputItem]:
    return [InputItem(row.path) for row in rows]


@pytest.mark.parametrize("ending", PREDICTION_FORMATS)
def test_what_was_written_is_read_again(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    rows = PredictionFile(path, items(*EVERY), FACTS)
    for row in (PLAIN, BROKEN, GOOD):
        rows.add(row)
    assert rows.finish() == EVERY
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    result, facts = PREDICTION_FORMATS[ending].read(path)
    assert result == EVERY
    assert facts == (None if ending == ".csv" else FACTS)


@pytest.mark.parametrize("ending", PREDICTION_FORMATS)
def test_a_file_name_that_is_not_utf_8_is_escaped_and_its_row_found_again(tmp_path: Path, ending: str) -> None:
    odd = replace(PLAIN, path=os.fsdecode(b"\xff/caf\xe9.png"), grad_cam=os.fsdecode(b"maps/\xe9.png"))
    path = tmp_path / f"out{ending}"
    first = PredictionFile(path, items(odd), FACTS)
    first.add(odd)
    second = PredictionFile(path, items(odd, GOOD), FACTS, resume=True)
    assert [item.path for item in second.remaining] == [GOOD.path]
    second.add(GOOD)
    second.finish()
    assert PredictionFile(path, items(odd), FACTS, resume=True).remaining == []
    if ending != ".parquet":
        assert "\\udcff/caf\\udce9.png" in path.read_text(encoding="utf-8")


def test_other_programs_read_them(tmp_path: Path) -> None:
    import pyarrow.parquet

    for ending in PREDICTION_FORMATS:
        rows = PredictionFile(tmp_path / f"out{ending}", items(*EVERY), FACTS)
        for row in EVERY:
            rows.add(row)
        rows.finish()
    predictions = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert predictions[0]["classes"][0] == {"name": "cät", "probability": 0.75}
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["path"], line["rank"], line["class"]) for line in lines] == [
        ("a, b.png", "1", "cät"), ("a, b.png", "2", "dog"), ("b.png", "1", "dog"), ("c.png", "", ""),
    ]  # fmt: skip
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["probabilities"] == [[0.75, 0.25], [1.0], []]
    assert table["embedding"][0] == [0.5, -1.25]
    assert "embedding" not in format_csv([PLAIN]).partition("\n")[0]


@pytest.mark.parametrize("ending", PREDICTION_FORMATS)
def test_an_interrupted_file_is_continued(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    first = PredictionFile(path, items(*EVERY), FACTS)
    first.add(PLAIN)
    first.add(BROKEN)
    assert not path.exists()  # whole or not there
    with (tmp_path / f"out{ending}.part").open("a") as file:
        file.write('{"path": "a, b.p')  # torn by a kill in the middle of a line
    second = PredictionFile(path, items(*EVERY), FACTS, resume=True)
    assert [item.path for item in second.remaining] == [GOOD.path, BROKEN.path]  # what failed is tried again
    second.add(GOOD)
    second.add(BROKEN)
    assert second.finish() == EVERY
    assert PREDICTION_FORMATS[ending].read(path)[0] == EVERY


def test_a_finished_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    rows = PredictionFile(path, items(PLAIN), FACTS)
    rows.add(PLAIN)
    rows.finish()
    again = PredictionFile(path, items(GOOD), FACTS, resume=True)
    assert again.remaining == items(GOOD)
    again.add(GOOD)
    assert again.finish() == [GOOD]
    assert PREDICTION_FORMATS[".csv"].read(path)[0] == [PLAIN, GOOD]
    nothing = PredictionFile(path, items(GOOD, PLAIN), FACTS, resume=True)
    assert nothing.remaining == []
    assert nothing.finish() == [GOOD, PLAIN]


def test_an_image_named_twice_is_one_row(tmp_path: Path) -> None:
    rows = PredictionFile(tmp_path / "out.csv", items(PLAIN, PLAIN), FACTS)
    rows.add(PLAIN)
    assert rows.finish() == [PLAIN]


def test_rows_made_otherwise_are_not_mixed(tmp_path: Path) -> None:
    for ending in (".json", ".parquet"):
        rows = PredictionFile(tmp_path / f"out{ending}", items(PLAIN), FACTS)
        rows.add(PLAIN)
        with pytest.raises(ValueError, match="weights=abc"):  # those of the journal
            PredictionFile(tmp_path / f"out{ending}", items(PLAIN), {**FACTS, "weights": "xyz"}, resume=True)
        rows.finish()
        with pytest.raises(ValueError, match=r"top_k=5.*top_k=2"):  # those of the file
            PredictionFile(tmp_path / f"out{ending}", items(PLAIN), {**FACTS, "top_k": 5}, resume=True)


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.json, \.csv, \.parquet.*nearest valid: out\.csv"):
        PredictionFile(tmp_path / "out.txt", items(PLAIN), FACTS)
    (tmp_path / "out.csv").write_text("there")
    with pytest.raises(ValueError, match="add --resume"):
        PredictionFile(tmp_path / "out.csv", items(PLAIN), FACTS)
    with pytest.raises(ValueError, match="other content"):
        PredictionFile(tmp_path / "out.csv", items(PLAIN), FACTS, resume=True)
    PredictionFile(tmp_path / "new.csv", items(PLAIN), FACTS).add(PLAIN)
    with pytest.raises(ValueError, match=r"rows of an interrupted command; .*--resume"):
        PredictionFile(tmp_path / "new.csv", items(PLAIN), FACTS)


def test_formulas_are_harmless_and_read_back_from_csv(tmp_path: Path) -> None:
    formula = replace(PLAIN, path="=1+1.png", classes=tuple(replace(score, name="@x") for score in PLAIN.classes))
    path = tmp_path / "out.csv"
    path.write_text(format_csv([formula]))
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert {(line["path"], line["class"]) for line in lines} == {("'=1+1.png", "'@x")}
    assert PREDICTION_FORMATS[".csv"].read(path)[0] == [formula]


def test_a_full_disk_names_the_file_the_rows_and_the_next_step_and_resume_completes(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    many = [replace(PLAIN, path=f"{number}.png") for number in range(100)]
    rows = PredictionFile(path, items(*many), FACTS)
    with (
        largest_file(2000),
        pytest.raises(DiskFullError, match=r"no space left to write .*out\.json\.part .*--resume") as caught,
    ):
        list(map(rows.add, many))
    match = re.search(r"the (\d+) rows written so far are in .*out\.json\.part", str(caught.value))
    assert match is not None
    stored = (tmp_path / "out.json.part").read_bytes().count(b"\n") - 1
    assert int(match[1]) == stored > 5
    resumed = PredictionFile(path, items(*many), FACTS, resume=True)
    assert len(resumed.remaining) == 100 - stored
    for item in resumed.remaining:
        resumed.add(replace(PLAIN, path=item.path))
    with largest_file(3000), pytest.raises(DiskFullError, match=r"out\.json .*the 100 rows written so far are in"):
        resumed.finish()
    assert not path.exists()
    assert resumed.finish() == many


def test_a_disk_that_is_full_from_the_start_is_reported(tmp_path: Path) -> None:
    with largest_file(0), pytest.raises(DiskFullError, match="the 0 rows written so far"):
        PredictionFile(tmp_path / "out.json", items(PLAIN), FACTS)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ValueError, match=r"a folder that can be written; got: /proc \(No such file or directory\)"):
        PredictionFile(Path("/proc/out.json"), items(PLAIN), FACTS)
