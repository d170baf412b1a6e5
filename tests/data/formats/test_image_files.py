"""Folders of images with a file of their labels."""

import json
from pathlib import Path

import pytest
from PIL import Image

from reslab.data.registry import find_format, list_dataset, open_dataset


def save(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(file)


NAMES = [f"{i}.png" for i in range(8)]


@pytest.mark.parametrize("file", ["labels.csv", "Annotations.csv", "labels.tsv"])
@pytest.mark.parametrize("images", ["", "images/"])
def test_a_labels_file_next_to_the_images(tmp_path: Path, file: str, images: str) -> None:
    save(tmp_path, [images + name for name in NAMES])
    rows = ["path,label", *(f"{name},{i + 0.5}" for i, name in enumerate(NAMES))]
    (tmp_path / file).write_text("\n".join(rows).replace(",", "\t" if file.endswith("tsv") else ","))
    data = open_dataset(tmp_path)
    assert (data.name, data.task, data.classes) == (tmp_path.name, "regression", ("label",))
    assert data.messages[0] == f"the labels are those of {file}"
    assert data.split("train").name(0).startswith(images)
    record = json.loads(json.dumps(data.split_record))
    assert open_dataset(tmp_path, split_record=record).fingerprint == data.fingerprint
    assert list_dataset(tmp_path).task == "regression"
    result = find_format(tmp_path)
    assert result is not None
    assert (result.name, len(result.list_images(tmp_path))) == ("labels-file", 8)


@pytest.mark.parametrize(
    ("lines", "task", "classes"),
    [
        (["ant", "bee"] * 4, "classification", ("ant", "bee")),
        (["ant", "bee", "ant bee", ""] * 2, "multi-label", ("ant", "bee")),
        (["1.5 2", "0 1"] * 4, "regression", ("column 2 0", "column 2 1")),
    ],
)
def test_a_text_file_of_paths_and_labels(tmp_path: Path, lines: list[str], task: str, classes: tuple[str, ...]) -> None:
    names = [f"image {i}.png" for i in range(8)]
    save(tmp_path, names)
    (tmp_path / "labels.txt").write_text("\n".join(f"{name} {line}" for name, line in zip(names, lines, strict=True)))
    data = open_dataset(tmp_path, val_fraction=0.25)
    assert (data.task, data.classes) == (task, classes)
    assert {images.name(i) for images in data.splits.values() for i in range(len(images))} == set(names)


def test_a_labels_file_in_each_split(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("Valid", 2)):
        save(tmp_path / split, NAMES[:count])
        rows = [f"{name},{i % 2},1" for i, name in enumerate(NAMES[:count])]
        (tmp_path / split / "labels.csv").write_text("\n".join(["file,ant,bee", *rows]))
    data = open_dataset(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 4, "val": 2}
    assert (data.task, data.classes) == ("multi-label", ("ant", "bee"))
    assert data.split("val").labels.tolist() == [[0, 1], [1, 1]]
    (tmp_path / "Valid" / "labels.csv").write_text("file,bee,ant\n0.png,0,1\n1.png,1,1\n")
    with pytest.raises(ValueError, match=r"the columns of labels ant, bee in .*as in training; got: bee, ant"):
        open_dataset(tmp_path)


def test_splits_by_the_folders_of_the_images(tmp_path: Path) -> None:
    names = [f"{'train' if i < 6 else 'test'}/{name}" for i, name in enumerate(NAMES)]
    save(tmp_path, names)
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(f"{name},{i / 2}" for i, name in enumerate(names)))
    data = open_dataset(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 6, "test": 2}


def test_class_folders_come_first(tmp_path: Path) -> None:
    save(tmp_path, [f"{'ant' if i % 2 else 'bee'}/{name}" for i, name in enumerate(NAMES)])
    (tmp_path / "labels.csv").write_text("path,label\nant/1.png,1.5\nbee/0.png,2.5\nbee/2.png,3\nant/3.png,4\n")
    assert open_dataset(tmp_path, val_fraction=0.25).task == "classification"
    with pytest.raises(ValueError, match=r"labels for the task regression in .*name a CSV file that lists the images"):
        open_dataset(tmp_path, task="regression")
    assert open_dataset(tmp_path / "labels.csv", val_fraction=0.5).task == "regression"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("path,label\n0.png,x\n1.png,x\n", "a single class, 'x'"),
        ("path,label\ngone.png,x\nlost.png,y\n", "no such file as"),
        ("path,label\n0.png,0.5\n1.png,\n", "a number in the column label in line 3"),
    ],
)
def test_bad_labels_files(tmp_path: Path, text: str, message: str) -> None:
    save(tmp_path, NAMES)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        open_dataset(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
