"""CSV files that list images: their contents, and an error for every invalid line.

Lines of CSV files as spreadsheets write them.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.data.formats.csv_table import find_separator, read_csv_rows
from reslab.data.registry import list_dataset, open_dataset

COLOURS = [10, 20, 30, 40, 50, 60, 70, 80]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
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
def test_splits_of_the_csv_are_used(image_folder: Path, mark: str, bom: str) -> None:
    rows = [f"{row},{split}" for row, split in zip(ROWS, SPLITS, strict=True)]
    text = bom + "\n".join(["Path,label,split", *rows, ""]).replace(",", mark)
    data = open_dataset(write(image_folder, text))
    assert (data.name, data.classes, data.split_record) == ("list", ("ant", "wasp"), {"method": "given"})
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 4, "val": 2, "test": 2}
    train = data.splits["train"]
    assert [train.name(i) for i in range(4)] == ["files/0.png", "files/1.png", "files/6.png", "files/7.png"]
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(train.preview(2)[:, 0, 0], torch.tensor([70, 0, 0], dtype=torch.uint8))
    assert data.preprocess.transform == "resize(256) center-crop(224)"


def test_without_a_split_a_part_is_held_out(image_folder: Path) -> None:
    file = write(image_folder, "label,path,note\n" + "\n".join(f"{r.split(',')[1]},{r.split(',')[0]},x" for r in ROWS))
    data = open_dataset(str(file), val_fraction=0.25)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 6, "val": 2}
    record = json.loads(json.dumps(data.split_record))
    assert open_dataset(file, split_record=record).fingerprint == data.fingerprint


def test_labels_are_names_in_lexicographic_order(image_folder: Path) -> None:
    file = write(image_folder, "path,label\n" + "\n".join(f"files/{i}.png,{10 if i % 2 else 9}" for i in range(8)))
    assert open_dataset(file).classes == ("10", "9")


def test_images_outside_of_the_folder(image_folder: Path) -> None:
    (image_folder / "lists").mkdir()
    rows = [f"../files/{i}.png,{i % 2}" for i in range(7)] + [f"{image_folder / 'files' / '7.png'},1"]
    data = open_dataset(write(image_folder / "lists", "path,label\n" + "\n".join(rows)), val_fraction=0.5)
    names = {images.name(i) for images in data.splits.values() for i in range(len(images))}
    assert names == {str(image_folder / "files" / f"{i}.png") for i in range(8)}


def test_quoted_paths(image_folder: Path) -> None:
    (image_folder / "files" / "0.png").rename(image_folder / "files" / "a, b.png")
    file = write(image_folder, 'path,label\n"files/a, b.png",x\nfiles/1.png,y\nfiles/2.png,x\nfiles/3.png,y\n')
    assert "files/a, b.png" in str(open_dataset(file, val_fraction=0.5).splits["train"].paths) + str(  # type: ignore[attr-defined]
        open_dataset(file, val_fraction=0.5).splits["val"].paths  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got: an empty file"),
        ("path,label\n", "no rows"),
        ("name,kind\nfiles/0,ant\n", "a column of images in"),
        ("path,labels\nfiles/0.png,a\n", "--label-column labels, or rename it to label"),
        ("path,label\ngone.png,a\nlost.png,b\n", "image files, as"),
        ("path,label\nfiles/0.png\nfiles/1.png,b\n", "a label in line 2"),
        ("path,label\n,a\n", "an image in line 2"),
        ("path,label\nfiles/0.png,a\nfiles/1.png,a\n", "a single class, 'a'"),
        ("path,label,split\nfiles/0.png,a,trian\n", "unknown split in line 2"),
        ("path,label,split\nfiles/0.png,a,val\n", "only val"),
        ("path,label,split\nfiles/0.png,ant,train\nfiles/1.png,bee,train\nfiles/2.png,bees,val\n", "'bees' in line 4"),
        ("path,label\nfiles/0.png,a\nfiles/1.png,b\nfiles/0.png,b\n", "line 2 (a, train) and line 4 (b, train)"),
        ("path,label\nfiles/0.png,a\nfiles/../files/0.png,b\n", "line 2 (a, train) and line 3 (b, train)"),
        ('path,label\n"files/0.png,a\nfiles/1.png,b\n', "not valid CSV"),
    ],
)
def test_invalid_csv(image_folder: Path, text: str, message: str) -> None:
    file = write(image_folder, text)
    with pytest.raises(ValueError) as caught:
        open_dataset(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_not_utf_8(image_folder: Path) -> None:
    (image_folder / "list.csv").write_bytes("path,label\nfiles/0.png,Müll\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        open_dataset(image_folder / "list.csv")


def test_missing_and_broken_images_are_listed(image_folder: Path) -> None:
    (image_folder / "files" / "3.png").write_bytes(b"")
    file = write(image_folder, "path,label\n" + "\n".join([*ROWS, "files/gone.png,ant"]))
    with pytest.raises(
        ValueError, match=r"1 image listed: no such file, relative to .*; 1 image in .* cannot be"
    ) as caught:
        open_dataset(file)
    assert "files/gone.png: no such file" in str(caught.value)
    assert "files/3.png: empty (0 bytes)" in str(caught.value)
    data = open_dataset(file, skip_bad_images=True)
    assert [name for name, _ in data.skipped_files] == ["files/3.png", "files/gone.png"]


def test_a_class_of_broken_images_only(image_folder: Path) -> None:
    file = write(image_folder, "path,label\n" + "\n".join([*ROWS, "files/gone.png,bee"]))
    with pytest.raises(ValueError, match=r"a readable training image of every class in .*; got: none of bee"):
        open_dataset(file, skip_bad_images=True)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_delimiter_is_detected_from_the_first_line(tmp_path: Path, mark: str) -> None:
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


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("filename,class", None),
        ("Img,Category", None),
        ("label,file,width", None),
        ("photo,kind", {"image": "photo", "label": "Kind"}),
        ("path,label,image,true", {"image": "image", "label": "true"}),
    ],
)
def test_columns_by_their_usual_names_or_as_reported(
    image_folder: Path, header: str, columns: dict[str, str] | None
) -> None:
    names = header.split(",")
    image, label = (columns or {}).get("image"), (columns or {}).get("label", "").lower()
    lines = []
    for i in range(8):
        cells = dict.fromkeys(names, "x")
        usual_image = next((name for name in names if name.lower() in ("filename", "img", "file")), "")
        usual_label = next((name for name in names if name.lower() in ("class", "category", "label")), "")
        cells[image or usual_image] = f"files/{i}.png"
        cells[next((name for name in names if name.lower() == label), usual_label)] = "wasp" if i % 2 else "ant"
        lines.append(",".join(cells.values()))
    file = write(image_folder, "\n".join([header, *lines]))
    data = open_dataset(file, columns=columns)
    assert data.classes == ("ant", "wasp")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 6, "val": 2}
    # The record alone opens the same data again: a run needs no column names.
    again = open_dataset(file, split_record=json.loads(json.dumps(data.split_record)))
    assert again.fingerprint == data.fingerprint
    assert list_dataset(file, columns=columns).classes == data.classes


def test_columns_that_are_not_there(image_folder: Path) -> None:
    file = write(image_folder, "path,label\n" + "\n".join(ROWS))
    with pytest.raises(ValueError, match=r"unknown column in .* 'lable'; nearest: 'label'"):
        open_dataset(file, columns={"label": "lable"})
    with pytest.raises(ValueError, match="a CSV file, where columns are named"):
        open_dataset(image_folder, columns={"label": "label"})


@pytest.mark.parametrize("order", ["{path},{label}", "{label},{path}", "{path},{label},train"])
def test_a_file_without_a_header(image_folder: Path, order: str) -> None:
    rows = (row.split(",") for row in ROWS)
    file = write(image_folder, "\n".join(order.format(path=path, label=label) for path, label in rows))
    data = open_dataset(file, val_fraction=0.25)
    assert data.classes == ("ant", "wasp")
    assert sum(len(images) for images in data.splits.values()) == 8
    assert "no header in list.csv: column" in data.messages[0]


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("path,label\n", ","),
        ("path;label\na,b.png;1,5\nc.png;2\n", ";"),
        ("path|label|split\na,b.png|x|train\n", "|"),
        ("a,b.png\tcat\nc,d,e.png\tdog\n", "\t"),
        ('"a;b;c;d",x\n"e;f;g;h",y\n', ","),
        ("", ","),
    ],
)
def test_separators(text: str, separator: str) -> None:
    assert find_separator(text) == separator


def test_backslashes_blanks_and_quotes(image_folder: Path) -> None:
    rows = [f'"files\\{i}.png", {label}' for i, label in enumerate(['"c"', '"a ""b"""'] * 4)]
    data = open_dataset(write(image_folder, "path, label\r\n" + "\r\n".join(rows)))
    assert data.classes == ('a "b"', "c")
    assert data.splits["train"].name(0).startswith("files/")


def test_utf_16_as_spreadsheets_save_it(image_folder: Path) -> None:
    (image_folder / "list.csv").write_bytes("\n".join(["path\tlabel", *ROWS]).replace(",", "\t").encode("utf-16"))
    assert open_dataset(image_folder / "list.csv").classes == ("ant", "wasp")


def test_paths_relative_to_another_folder(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image_folder / "lists").mkdir()
    file = write(image_folder / "lists", "path,label\n" + "\n".join(ROWS))
    monkeypatch.chdir(image_folder)
    with pytest.raises(ValueError) as caught:
        open_dataset(file)
    assert f"relative to {image_folder / 'lists'}; got: no such file as" in str(caught.value)
    assert f"they exist relative to the current folder: move the CSV file to {image_folder}" in str(caught.value)
