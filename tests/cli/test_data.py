"""`reslab data check`: its output, its HTML report, and errors for invalid paths."""

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


def test_a_folder_without_problems(folder: Path, command: Command) -> None:
    outcome = command("data", "check", folder)
    assert outcome.code == 0
    assert [line.split() for line in outcome.out.splitlines()[:4]] == [
        ["class", "train", "val"], ["ants", "20", "3"], ["bees", "20", "3"], ["all", "40", "6"],
    ]  # fmt: skip
    assert "no problems found" in outcome.out
    assert "data-check-photos.html" in outcome.err
    assert "photos" in Path("data-check-photos.html").read_text("utf-8")


def test_images_with_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    for i in range(4):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"cells/images/{i}.png")
        mask = np.zeros((40, 50), dtype=np.uint8)
        mask[:10], mask[10:12, :25] = 3, 255
        Image.fromarray(mask).save(tmp_path / f"cells/masks/{i}.png")
    outcome = command("data", "check", tmp_path / "cells", "--train-transform", "crop(32) flip")
    assert outcome.code == 0
    assert [line.split() for line in outcome.out.splitlines()[:5]] == [
        ["class", "train", "images", "train", "pixels"], ["0", "4", "72.50", "%"], ["3", "4", "25.00", "%"],
        ["void", "4", "2.50", "%"], ["all", "4"],
    ]  # fmt: skip
    page = Path("data-check-cells.html").read_text("utf-8")
    assert "does not suit" not in page
    assert "4 images of 2 classes" in page
    assert "4 per class in training" in page
    assert command("data", "check", tmp_path / "cells", "--json").value["splits"]["train"]["num_images"] == 4
    assert "background" in command("data", "check", tmp_path / "cells", "--mask-values", "instances").out
    outcome = command("data", "check", tmp_path / "cells", "--mask-values", "0=sky,3=ground")
    assert (outcome.code, "255 in 4 of 4 masks" in outcome.out) == (1, True)


def test_json_is_one_value_and_the_page_is_where_it_says(folder: Path, command: Command) -> None:
    (folder / "train" / "ants" / "0.png").write_bytes(b"")
    (folder / "train" / "bees" / "0.png").unlink()
    (folder / "val" / "ants" / "copy.png").write_bytes((folder / "train" / "ants" / "1.png").read_bytes())
    outcome = command("data", "check", folder, "--json", "--html", folder.parent / "pages" / "x.html")
    assert (outcome.code, outcome.err) == (1, f"HTML page: {folder.parent / 'pages' / 'x.html'}\n")
    expected = outcome.value
    assert expected["splits"]["val"] == {"num_images": 7, "per_class": {"ants": 4, "bees": 3}}
    assert expected["unreadable"] == [{"path": "train/ants/0.png", "error": "empty (0 bytes)"}]
    assert expected["cross_split_duplicates"] == [{"paths": ["train/ants/1.png", "val/ants/copy.png"], "exact": True}]
    assert {(f["severity"], f["kind"]) for f in expected["findings"]} == {
        ("error", "unreadable"), ("warning", "cross-split-duplicates"), ("note", "small-classes")
    }  # fmt: skip
    assert Path(expected["html"]).is_file()


def test_the_batch_uses_the_given_transform(folder: Path, command: Command) -> None:
    assert command("data", "check", folder, "--train-transform", "crop(20) flip", "--html", "a.html").code == 0
    assert "crop(20) flip" in Path("a.html").read_text("utf-8")
    outcome = command("data", "check", folder, "--train-transform", "crop(200)", "--html", "b.html")
    assert outcome.code == 0
    assert "does not suit these images" in Path("b.html").read_text("utf-8")


@pytest.mark.parametrize("arguments", [["nowhere"], ["a/b"], ["digit"]])
def test_invalid_paths(folder: Path, command: Command, arguments: list[str]) -> None:
    outcome = command("data", "check", *arguments, "--json")
    assert outcome.code == 1
    assert set(json.loads(outcome.out)) == {"error"}


def test_the_group_has_help(command: Command) -> None:
    assert "check" in command("data", "--help").out
    assert "--json" in command("data", "check", "--help").out
    assert command("data", "chek").code == 2


def test_columns_of_a_csv_file_are_named(folder: Path, command: Command) -> None:
    rows = [f"{path.relative_to(folder.parent)};{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (folder.parent / "list.csv").write_text("\n".join(["photo;kind", *rows]))
    outcome = command("data", "check", "list.csv", "--json")
    assert outcome.code == 1
    assert "--image-column" in outcome.value["error"]
    outcome = command("data", "check", "list.csv", "--image-column", "photo", "--label-column", "kind", "--json")
    assert outcome.value["splits"]["train"]["per_class"] == {"ants": 23, "bees": 23}
    for name in ("train", "eval"):
        assert "--label-column" in command(name, "--help").out


def test_several_classes_and_values_are_listed(folder: Path, command: Command) -> None:
    paths = [path.relative_to(folder.parent) for path in sorted(folder.rglob("*.png"))]
    rows = [f"{path},{i % 2},{int(i % 3 == 0)},{i / 4}" for i, path in enumerate(paths)]
    (folder.parent / "list.csv").write_text("\n".join(["path,ant,bee,weight", *rows]))
    outcome = command("data", "check", "list.csv", "--label-column", "ant,bee")
    assert outcome.code == 0
    assert [line.split() for line in outcome.out.splitlines()[:5]] == [
        ["class", "train"], ["ant", "23"], ["bee", "16"], ["(no", "class)", "15"], ["images", "46"],
    ]  # fmt: skip
    assert "the task is multi-label" in outcome.out
    outcome = command("data", "check", "list.csv", "--label-column", "weight", "--task", "regression")
    assert [line.split() for line in outcome.out.splitlines()[:2]] == [
        ["value", "split", "images", "min", "mean", "std", "max"],
        ["weight", "train", "46", "0.000", "5.625", "3.319", "11.25"],
    ]
    page = Path("data-check-list.html").read_text("utf-8")
    assert "does not suit these images" not in page
    outcome = command("data", "check", folder, "--task", "regression", "--json")
    assert outcome.code == 1
    assert "labels for the task regression" in outcome.value["error"]
    assert "nearest: 'regression'" in command("data", "check", folder, "--task", "regresion", "--json").value["error"]
