"""CSV files with several classes or numbers an image: columns, the task that they suit, and an error for bad cells."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from reslab.data.formats.label_text import InferredTask, LabelTexts, infer_task, parse_labels
from reslab.data.registry import list_dataset, open_dataset

NUM = 8


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(NUM):
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def write(folder: Path, header: str, labels: list[str], name: str = "list.csv") -> Path:
    file = folder / name
    file.write_text("\n".join([header, *(f"{i}.png,{label}" for i, label in enumerate(labels))]), encoding="utf-8")
    return file


SETS = ["ant", "ant|bee", "bee", "", "fly", "fly|ant|bee", "bee", "ant"]
MULTI_HOT = [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]]
COLUMNS = [",".join(map(str, row)) for row in MULTI_HOT]


def labels_of(data: Any) -> list[list[float]]:
    """Return the labels in the order of the files, whatever their split."""
    by_name = {images.name(i): images.labels[i].tolist() for images in data.splits.values() for i in range(len(images))}
    return [by_name[f"{i}.png"] for i in range(NUM)]


@pytest.mark.parametrize("separator", ["|", ";", " "])
def test_cells_with_several_names(images: Path, separator: str) -> None:
    file = write(images, "path,label", [cell.replace("|", separator) for cell in SETS])
    data = open_dataset(file, val_fraction=0.25)
    assert (data.task, data.classes) == ("multi-label", ("ant", "bee", "fly"))
    assert labels_of(data) == MULTI_HOT
    assert "the task is multi-label" in data.messages[0]
    assert list_dataset(file).task == "multi-label"


@pytest.mark.parametrize("cells", ["""['ant', 'bee']""", """["ant","bee"]""", "[ant bee]"])
def test_cells_with_lists(images: Path, cells: str) -> None:
    quoted = '"' + cells.replace('"', '""') + '"'
    data = open_dataset(write(images, "path,label", [quoted, "[]", "\"['bee']\"", "[ant]"] * 2), val_fraction=0.25)
    assert (data.task, data.classes) == ("multi-label", ("ant", "bee"))


@pytest.mark.parametrize("word", [str, lambda value: f"{value}.0", lambda value: str(bool(value))])
def test_columns_of_0_and_1(images: Path, word: Any) -> None:
    rows = [",".join(word(value) for value in row) for row in MULTI_HOT]
    data = open_dataset(write(images, "image,ant,bee,fly", rows))
    assert (data.task, data.classes) == ("multi-label", ("ant", "bee", "fly"))
    assert labels_of(data) == MULTI_HOT
    assert data.messages[0] == "columns ant, bee, fly hold 0 and 1, not one 1 a row: the task is multi-label"
    chosen = open_dataset(write(images, "image,ant,bee,fly", rows), columns={"label": "fly,ant"})
    assert chosen.classes == ("fly", "ant")
    assert labels_of(chosen) == [[row[2], row[0]] for row in MULTI_HOT]


def test_columns_with_one_1_a_row_are_classes(images: Path) -> None:
    rows = ["1,0,0", "0,1,0", "0,0,1", "1,0,0"] * 2
    file = write(images, "image,ant,bee,fly", rows)
    data = open_dataset(file, val_fraction=0.25)
    assert (data.task, data.classes) == ("classification", ("ant", "bee", "fly"))
    assert labels_of(data) == [0, 1, 2, 0] * 2
    assert "hold one 1 a row: the task is classification" in data.messages[0]
    assert labels_of(open_dataset(file, task="multi-label")) == [list(map(int, row.split(","))) for row in rows]


@pytest.mark.parametrize("columns", [{"label": "height,Weight"}, {"label": ["height", "weight"]}])
def test_several_numbers(images: Path, columns: dict[str, Any]) -> None:
    values = [[float(i), i / 4] for i in range(NUM)]
    file = write(images, "path,height,weight,note", [f"{height},{weight},x" for height, weight in values])
    data = open_dataset(file, columns=columns)
    assert (data.task, data.classes) == ("regression", ("height", "weight"))
    assert labels_of(data) == values
    record = json.loads(json.dumps(data.split_record))
    assert record["task"] == "regression"
    again = open_dataset(file, split_record=record)
    assert (again.task, again.classes, again.fingerprint) == (data.task, data.classes, data.fingerprint)
    listing = list_dataset(file, columns=columns)
    assert (listing.task, listing.classes) == ("regression", ("height", "weight"))


def test_numbers_in_one_column(images: Path) -> None:
    data = open_dataset(write(images, "path,label", [str(i + 0.5) for i in range(NUM)]))
    assert (data.task, data.classes) == ("regression", ("label",))
    assert data.messages[0] == "column label holds numbers with fractions, such as 0.5: the task is regression"
    pairs = open_dataset(write(images, "path,label", [f"{i} {i / 2}" for i in range(NUM)]))
    assert (pairs.task, pairs.classes) == ("regression", ("label 0", "label 1"))
    assert labels_of(pairs) == [[i, i / 2] for i in range(NUM)]


def test_whole_numbers_are_classes_unless_the_task_is_given(images: Path) -> None:
    file = write(images, "path,cells", [str(i % 2) for i in range(NUM)])
    assert open_dataset(file, columns={"label": "cells"}).task == "classification"
    data = open_dataset(file, task="regression")
    assert (data.task, data.classes) == ("regression", ("cells",))
    binary = open_dataset(file, task="multi-label")
    assert (binary.task, binary.classes) == ("multi-label", ("cells",))
    comma = images / "comma.csv"
    comma.write_text("path;label\n" + "\n".join(f"{i}.png;{i},5" for i in range(NUM)))
    assert labels_of(open_dataset(comma, task="regression")) == [[i + 0.5] for i in range(NUM)]


def test_vectors_of_0_and_1_in_one_cell(images: Path) -> None:
    data = open_dataset(write(images, "path,label", [" ".join(map(str, row)) for row in MULTI_HOT]))
    assert (data.task, data.classes) == ("multi-label", ("label 0", "label 1", "label 2"))
    assert labels_of(data) == MULTI_HOT


@pytest.mark.parametrize(
    ("task", "classes"), [("multi-label", ("column 2", "column 3", "column 4")), (None, ("0", "1"))]
)
def test_without_a_header(images: Path, task: str | None, classes: tuple[str, ...]) -> None:
    file = images / "list.csv"
    file.write_text("\n".join(f"{i}.png,{label}" for i, label in enumerate(COLUMNS)))
    data = open_dataset(file, task=task, val_fraction=0.25)
    assert data.classes == classes
    assert "no header in list.csv" in data.messages[0]


@pytest.mark.parametrize(
    ("header", "labels", "options", "message"),
    [
        ("path,a,b", ["1,0"] * 7 + ["1,2"], {"columns": {"label": "a,b"}, "task": "multi-label"}, "'2'"),
        ("path,a,b", ["1,0"] * 7 + ["1,2"], {"columns": {"label": "a,b"}, "task": "multi-label"}, "column b in line 9"),
        ("path,a,b", ["1,0"] * 7 + ["1,"], {"columns": {"label": "a,b"}, "task": "multi-label"}, "an empty cell"),
        ("path,a,b", ["1,0"] * 7 + ["1,1"], {"task": "classification"}, "a single 1 among the columns a, b in line 9"),
        ("path,label", ["0.5"] * 6 + ["", "nan"], {}, "a number in the column label in line 8"),
        ("path,label", ["0.5"] * 6 + ["", "nan"], {}, "an empty cell, and in 1 more rows; fill it in, or remove"),
        ("path,label", ["0.5"] * 7 + ["tall"], {"task": "regression"}, "got: 'tall'"),
        ("path,label", ["0.5"] * 7 + ["inf"], {"task": "regression"}, "got: 'inf'"),
        ("path,label", ["1 2"] * 7 + ["1 2.5 3"], {"task": "regression"}, "3 numbers in line 2"),
        ("path,a,b", ["1,x"] * 8, {"columns": {"label": "a,b"}}, "0 or 1 in the column b in line 2"),
        ("path,label", [""] * 8, {"task": "multi-label"}, "names of classes in label; got: only empty cells"),
        ("path,label", ["ant"] * 8, {"task": "segmentation"}, "labels for the task segmentation"),
        ("path,label", ["ant"] * 8, {"task": "regresion"}, "unknown task 'regresion'; nearest: 'regression'"),
        ("path,a,b", ["1,0"] * 8, {"columns": {"label": "a,c"}}, "unknown column in"),
        ("path,a,b", ["1,0"] * 8, {"columns": {"label": "a,a"}}, "each column once as label; got: a twice"),
        ("path,a,b", ["1,0"] * 8, {"columns": {"label": []}}, "a column of labels in"),
        ("path,label", [f"{i}.5" for i in range(18)] + ["tall", "1"], {}, "column label in line 20"),
        ("path,a,a", ["1,0"] * 8, {"columns": {"label": "a"}, "task": "classification"}, "a single class"),
        ("path,a,a", ["1,0"] * 7 + ["1,1"], {}, "a name of its own for each column of labels; got: 'a' twice"),
        ("path,a,", ["1,0"] * 7 + ["1,1"], {}, "a name of its own for each column of labels; got: none"),
        ("path,x,y", ["1,"] + ["1,5"] * 7, {}, "nearest valid: x,y; name the column with --label-column x,y"),
        ("path,x,y", ["1,5"] * 8, {}, "nearest valid: x,y; name the column with --label-column x,y"),
        ("path,label,split", ["ant|bee,train"] * 7 + ["ant|flea,val"], {}, "got: 'flea' in line 9"),
        ("path,label,split", ["7,train", "8,train"] * 3 + ["9,val"] * 2, {}, "for amounts, set --task regression"),
    ],
)
def test_bad_cells(images: Path, header: str, labels: list[str], options: dict[str, Any], message: str) -> None:
    file = write(images, header, labels)
    with pytest.raises(ValueError) as caught:
        open_dataset(file, **options)
    assert message in str(caught.value)


def texts(cells: list[str]) -> LabelTexts:
    return LabelTexts(("label",), [(cell,) for cell in cells], location=lambda i: f"line {i}", row=lambda i: cells[i])


@pytest.mark.parametrize(
    "cells",
    [
        ["golden retriever", "great dane", "labrador retriever"],
        ["tench, Tinca tinca", "hen", "cock"],
        ["1", "2", "3"],
        ["1.0", "2.0"],
        ["a", "b"],
        ["hot dog", "not hot dog"],
    ],
)
def test_labels_in_doubt_are_classes(cells: list[str]) -> None:
    assert infer_task(texts(cells)) == InferredTask("classification")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([str(i) for i in range(30)], "30 different numbers in column label are read as classes; for amounts"),
        (["-1", "3"], "2 different numbers in column label"),
        (
            ["clear river", "clear road", "river road", "clear river road"],
            "labels such as 'clear river' are read as one",
        ),
    ],
)
def test_hints(cells: list[str], message: str) -> None:
    inferred = infer_task(texts(cells))
    assert (inferred.name, inferred.reason) == ("classification", "")
    assert message in inferred.hint


def test_a_list_of_classes_names_indices() -> None:
    listed = LabelTexts(("label",), [("0|2",), ("bee",), ("",)], lambda i: f"#{i}", lambda i: "", ("ant", "bee", "fly"))
    parsed = parse_labels(listed)
    assert (parsed.task, parsed.names) == ("multi-label", ("ant", "bee", "fly"))
    assert parsed.labels == ((1, 0, 1), (0, 1, 0), (0, 0, 0))
    unknown = LabelTexts(("label",), [("0|3",)], lambda i: f"#{i}", lambda i: "", ("ant", "bee", "fly"))
    with pytest.raises(ValueError, match=r"classes of the list \(ant, bee, fly\) in #0; got: '3'"):
        parse_labels(unknown)


def test_training_without_a_class_of_another_split_is_a_message(images: Path) -> None:
    rows = [f"{label},{'train' if i < 6 else 'val'}" for i, label in enumerate(["1,1,0", "0,0,0"] * 3 + ["0,1,1"] * 2)]
    data = open_dataset(write(images, "path,ant,bee,fly,split", rows))
    assert "validation images have classes that no training image has: fly" in data.messages
    assert not any("no validation image has" in message for message in data.messages)  # negative examples of ant
    assert data.split("val").labels.dtype == torch.float32


def test_a_bad_image_may_take_the_last_of_a_class_with_it(images: Path) -> None:
    (images / "4.png").write_bytes(b"")
    (images / "5.png").write_bytes(b"")
    file = write(images, "path,label", SETS)
    data = open_dataset(file, skip_bad_images=True)
    assert data.classes == ("ant", "bee", "fly")
    assert [name for name, _ in data.skipped_files] == ["4.png", "5.png"]
