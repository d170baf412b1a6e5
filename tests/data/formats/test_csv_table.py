"""CSV files that list images: their contents, and an error for every invalid line.

Lines of CSV files as spreadsheets write them.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.data.formats.csv_table import read_csv_rows
from reslab.data.registry import open_dataset

COLOURS = [10, 20, 30, 40, 50, 60, 70, 80]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (90, 70), (colour, 0, 0)).save(tmp_path / "files" / f"{i}.png")
    return tmp_path


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


ROWS = [f"files/{i}.png,{'wasp' if i % 2 else 'ant'}" for i in range(8)]
SPLITS = ["train", "train", "val", "validation", "test", "test", "Train", "train"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_splits_of_the_csv_are_used(pictures: Path, mark: str, bom: str) -> None:
    rows = [f"{row},{split}" for row, split in zip(ROWS, SPLITS, strict=True)]
    text = bom + "\n".join(["Path,label,split", *rows, ""]).replace(",", mark)
    data = open_dataset(write(pictures, text))
    assert (data.name, data.classes, data.split_record) == ("list", ("ant", "wasp"), {"method": "given"})
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 4, "val": 2, "test": 2}
    train = data.splits["train"]
    assert [train.name(i) for i in range(4)] == ["files/0.png", "files/1.png", "files/6.png", "files/7.png"]
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(train.preview(2)[:, 0, 0], torch.tensor([70, 0, 0], dtype=torch.uint8))
    assert data.preprocess.transform == "resize(256) center-crop(224)"


def test_without_a_split_a_part_is_held_out(pictures: Path) -> None:
    file = write(pictures, "label,path,note\n" + "\n".join(f"{r.split(',')[1]},{r.split(',')[0]},x" for r in ROWS))
    data = open_dataset(str(file), val_fraction=0.25)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 6, "val": 2}
    record = json.loads(json.dumps(data.split_record))
    assert open_dataset(file, split_record=record).fingerprint == data.fingerprint


def test_labels_are_names_in_lexicographic_order(pictures: Path) -> None:
    file = write(pictures, "path,label\n" + "\n".join(f"files/{i}.png,{10 if i % 2 else 9}" for i in range(8)))
    assert open_dataset(file).classes == ("10", "9")


def test_images_outside_of_the_folder(pictures: Path) -> None:
    (pictures / "lists").mkdir()
    rows = [f"../files/{i}.png,{i % 2}" for i in range(7)] + [f"{pictures / 'files' / '7.png'},1"]
    data = open_dataset(write(pictures / "lists", "path,label\n" + "\n".join(rows)), val_fraction=0.5)
    names = {images.name(i) for images in data.splits.values() for i in range(len(images))}
    assert names == {str(pictures / "files" / f"{i}.png") for i in range(8)}


def test_quoted_paths(pictures: Path) -> None:
    (pictures / "files" / "0.png").rename(pictures / "files" / "a, b.png")
    file = write(pictures, 'path,label\n"files/a, b.png",x\nfiles/1.png,y\nfiles/2.png,x\nfiles/3.png,y\n')
    assert "files/a, b.png" in str(open_dataset(file, val_fraction=0.5).splits["train"].paths) + str(  # type: ignore[attr-defined]
        open_dataset(file, val_fraction=0.5).splits["val"].paths  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got: an empty file"),
        ("path,label\n", "no rows"),
        ("files/0.png,ant\nfiles/1.png,wasp\n", "a header with the columns path,label"),
        ("path,labels\nfiles/0.png,a\n", "rename labels to label"),
        ("path,label\nfiles/0.png\nfiles/1.png,b\n", "a label in line 2"),
        ("path,label\n,a\n", "a path in line 2"),
        ("path,label\nfiles/0.png,a\nfiles/1.png,a\n", "a single class, 'a'"),
        ("path,label,split\nfiles/0.png,a,trian\n", "unknown split in line 2"),
        ("path,label,split\nfiles/0.png,a,val\n", "only val"),
        ("path,label,split\nfiles/0.png,ant,train\nfiles/1.png,bee,train\nfiles/2.png,bees,val\n", "'bees' in line 4"),
        ("path,label\nfiles/0.png,a\nfiles/1.png,b\nfiles/0.png,b\n", "line 2 (a, train) and line 4 (b, train)"),
        ("path,label\nfiles/0.png,a\nfiles/../files/0.png,b\n", "line 2 (a, train) and line 3 (b, train)"),
        ('path,label\n"files/0.png,a\nfiles/1.png,b\n', "not valid CSV"),
    ],
)
def test_invalid_csv(pictures: Path, text: str, said: str) -> None:
    file = write(pictures, text)
    with pytest.raises(ValueError) as caught:
        open_dataset(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_not_utf_8(pictures: Path) -> None:
    (pictures / "list.csv").write_bytes("path,label\nfiles/0.png,Müll\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        open_dataset(pictures / "list.csv")


def test_missing_and_broken_images_are_listed(pictures: Path) -> None:
    (pictures / "files" / "3.png").write_bytes(b"")
    file = write(pictures, "path,label\n" + "\n".join([*ROWS, "files/gone.png,ant"]))
    with pytest.raises(ValueError, match=r"2 images in .* cannot be read") as caught:
        open_dataset(file)
    assert "files/gone.png: no such file" in str(caught.value)
    assert "files/3.png: empty (0 bytes)" in str(caught.value)
    data = open_dataset(file, skip_bad_images=True)
    assert [name for name, _ in data.skipped_files] == ["files/3.png", "files/gone.png"]


def test_a_class_of_broken_images_only(pictures: Path) -> None:
    file = write(pictures, "path,label\n" + "\n".join([*ROWS, "files/gone.png,bee"]))
    with pytest.raises(ValueError, match=r"a readable image in every class folder .*none in bee/"):
        open_dataset(file, skip_bad_images=True)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_lie_apart_by_what_the_first_line_has(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(f'\ufeffpath{mark}label\r\n\r\n"a{mark}b.png"{mark}cat\r\n'.encode())
    assert list(read_csv_rows(file)) == [(1, ["path", "label"]), (3, [f"a{mark}b.png", "cat"])]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    assert list(read_csv_rows(tmp_path / "list.csv")) == []


def test_binary_content_and_open_quotes_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes("path\né.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        list(read_csv_rows(file))
    file.write_text('path\n"a.png\n')
    with pytest.raises(ValueError, match=r"list\.csv:2: not valid CSV"):
        list(read_csv_rows(file))
