"""`reslab data check`: what it prints, where the page goes, and what it says of paths that are none."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for split, num in (("train", 20), ("val", 3)):
        for name in ("ants", "bees"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(num):
                pixels = draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_sound_folder(folder: Path, command: Command) -> None:
    outcome = command("data", "check", folder)
    assert outcome.code == 0
    assert [line.split() for line in outcome.out.splitlines()[:4]] == [
        ["class", "train", "val"], ["ants", "20", "3"], ["bees", "20", "3"], ["all", "40", "6"],
    ]  # fmt: skip
    assert "no problems found" in outcome.out
    assert "data-check-photos.html" in outcome.err
    assert "photos" in Path("data-check-photos.html").read_text("utf-8")


def test_json_is_one_value_and_the_page_is_where_it_says(folder: Path, command: Command) -> None:
    (folder / "train" / "ants" / "0.png").write_bytes(b"")
    (folder / "train" / "bees" / "0.png").unlink()
    (folder / "val" / "ants" / "copy.png").write_bytes((folder / "train" / "ants" / "1.png").read_bytes())
    outcome = command("data", "check", folder, "--json", "--html", folder.parent / "pages" / "x.html")
    assert (outcome.code, outcome.err) == (0, "")
    told = outcome.value
    assert told["splits"]["val"] == {"num_images": 7, "per_class": {"ants": 4, "bees": 3}}
    assert told["unreadable"] == [{"path": "train/ants/0.png", "error": "empty (0 bytes)"}]
    assert told["cross_split_duplicates"] == [{"paths": ["train/ants/1.png", "val/ants/copy.png"], "exact": True}]
    assert {(f["severity"], f["kind"]) for f in told["findings"]} == {
        ("error", "unreadable"), ("warning", "cross-split-duplicates"), ("note", "small-classes")
    }  # fmt: skip
    assert Path(told["html"]).is_file()


def test_the_batch_is_under_the_words_asked_for(folder: Path, command: Command) -> None:
    assert command("data", "check", folder, "--train-transform", "crop(20) flip", "--html", "a.html").code == 0
    assert "crop(20) flip" in Path("a.html").read_text("utf-8")
    outcome = command("data", "check", folder, "--train-transform", "crop(200)", "--html", "b.html")
    assert outcome.code == 0
    assert "No training batch can be made" in Path("b.html").read_text("utf-8")


@pytest.mark.parametrize("words", [["nowhere"], ["a/b"], ["digit"]])
def test_paths_that_are_none(folder: Path, command: Command, words: list[str]) -> None:
    outcome = command("data", "check", *words, "--json")
    assert outcome.code == 1
    assert set(json.loads(outcome.out)) == {"error"}


def test_the_group_has_help(command: Command) -> None:
    assert "check" in command("data", "--help").out
    assert "--json" in command("data", "check", "--help").out
    assert command("data", "chek").code == 2
