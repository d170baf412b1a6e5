"""The files listed of a folder: each real file once, splits by their usual names, and a message for what is dropped."""

import os
from pathlib import Path

import pytest
from PIL import Image

from reslab.data import cache
from reslab.data.dataset import DatasetSplits
from reslab.data.formats.class_folders import find_image_files
from reslab.data.registry import list_dataset, open_dataset


def fill(folder: Path, classes: str = "ab", num: int = 5) -> Path:
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            Image.new("RGB", (80, 70), (10 * i, k, len(folder.parts))).save(folder / name / f"{i}.png")
    return folder


def counts(data: DatasetSplits) -> dict[str, list[int]]:
    return {
        split: dataset.labels.bincount(minlength=data.num_classes).tolist() for split, dataset in data.splits.items()
    }


def all_names(data: DatasetSplits) -> list[str]:
    return sorted(dataset.name(i) for dataset in data.splits.values() for i in range(len(dataset)))


def test_links_to_folders_above_add_nothing(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    expected = all_names(open_dataset(root))
    (root / "a" / "up").symlink_to("..")
    (root / "b" / "top").symlink_to(tmp_path)
    (root / "a" / "other").symlink_to("../b")
    data = open_dataset(root)
    assert all_names(data) == expected
    assert sum(map(sum, counts(data).values())) == 10
    assert data.messages == (
        "3 paths are ignored, as they lead to a file or folder that is read already (a/other, a/up, b/top)",
    )
    assert len(find_image_files(root)) == 10


def test_a_linked_file_stays_where_it_really_is(tmp_path: Path) -> None:
    fill(tmp_path / "data" / "train"), fill(tmp_path / "data" / "val", num=2)
    (tmp_path / "data" / "train" / "a" / "000.png").symlink_to("../../val/a/0.png")
    os.link(tmp_path / "data" / "train" / "b" / "1.png", tmp_path / "data" / "train" / "b" / "copy.png")
    data = open_dataset(tmp_path / "data")
    assert counts(data) == {"train": [5, 5], "val": [2, 2]}
    assert "2 paths are ignored" in data.messages[0]


def test_links_to_files_elsewhere_are_read(tmp_path: Path) -> None:
    pool = fill(tmp_path / "pool")
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "data" / name / f"{i}.png").symlink_to(pool / name / f"{i}.png")
    (tmp_path / "data" / "c").symlink_to(fill(tmp_path / "more", "c") / "c")
    data = open_dataset(tmp_path / "data")
    assert (data.classes, counts(data), data.messages) == (("a", "b", "c"), {"train": [4, 4, 4], "val": [1, 1, 1]}, ())


def test_a_split_that_is_a_link_to_another_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "train"), fill(tmp_path / "val")
    (tmp_path / "test").symlink_to("val")
    with pytest.raises(ValueError, match=r"images of its own in .*test; got: only links to folders that other splits"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "Val"), ("train", "val")),
        (("training", "testing"), ("train", "test")),
        (("train", "dev", "holdout"), ("train", "val", "test")),
        (("TRAIN", "valid", "Test"), ("train", "val", "test")),
        (("train", "val", "eval"), ("train", "val", "test")),
    ],
)
def test_usual_names_of_splits_in_any_case(tmp_path: Path, folders: tuple[str, ...], splits: tuple[str, ...]) -> None:
    for folder in folders:
        fill(tmp_path / folder)
    data = open_dataset(tmp_path)
    assert (tuple(data.splits), data.classes) == (splits, ("a", "b"))
    assert data.splits[splits[-1]].name(0) == f"{folders[splits.index(splits[-1])]}/a/0.png"
    assert {split: len(dataset) for split, dataset in list_dataset(tmp_path).splits.items()} == dict.fromkeys(
        splits, 10
    )


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "extra"), "extra/ with images"),
        (("train_set", "test_set"), "folders that hold only folders: test_set/a/, test_set/b/"),
        (("part1", "part2"), "folders that hold only folders: part1/a/, part1/b/"),
        (("train", "Training"), "both Training/ and train/"),
    ],
)
def test_folders_that_look_like_unknown_splits_are_an_error(
    tmp_path: Path, folders: tuple[str, ...], expected: str
) -> None:
    for folder in folders:
        fill(tmp_path / folder)
    with pytest.raises(ValueError) as caught:
        open_dataset(tmp_path)
    assert expected in str(caught.value)
    assert list_dataset(tmp_path).layout_error == str(caught.value)


def test_flat_splits_are_not_two_classes(tmp_path: Path) -> None:
    fill(tmp_path, ["train", "val"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"class folders in .*train; got: 5 images directly in it"):
        open_dataset(tmp_path)


def test_one_folder_for_each_patient_within_a_class_is_reported(tmp_path: Path) -> None:
    for inner in ("a/p1", "a/p2", "b/p3", "b/p4"):
        fill(tmp_path / inner, "x")
    data = open_dataset(tmp_path)
    assert (data.classes, counts(data)) == (("a", "b"), {"train": [8, 8], "val": [2, 2]})
    assert "hold only folders (a/p1/, a/p2/, b/p3/, b/p4/): the outer folder is the class" in data.messages[0]


def test_files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "train"), fill(tmp_path / "val", num=2)
    for name in ("a/1.raw7", "a/2.RAW7", "b/notes.txt"):
        (tmp_path / "train" / name).touch()
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "loose.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "top.png")
    (tmp_path / "labels").mkdir()
    data = open_dataset(tmp_path)
    assert data.messages == (
        "3 files are ignored, by ending not an image: 2 .raw7, 1 .txt "
        "(train/a/1.raw7, train/a/2.RAW7, train/b/notes.txt)",
        "2 images are ignored, in no class folder and so without a label (top.png, train/loose.png)",
        "folders beside the splits are ignored: labels",
    )


@pytest.mark.parametrize("name", ["@eaDir", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"])
def test_system_folders_are_no_classes(tmp_path: Path, name: str) -> None:
    fill(tmp_path, ["a", "b", name])  # type: ignore[arg-type]
    (tmp_path / "a" / name).mkdir()
    (tmp_path / "a" / "Thumbs.db").touch()
    data = open_dataset(tmp_path)
    assert (data.classes, data.messages) == (("a", "b"), ())
    assert [path.name for path in list_dataset(tmp_path).ignored.system_folders] == [name, name]


def test_tiny_imagenet(tmp_path: Path) -> None:
    lines = []
    for name in ("n01443537", "n01629819"):
        fill(tmp_path / "train" / name, ["images"])  # type: ignore[arg-type]
    for split in ("val", "test"):
        fill(tmp_path / split, ["images"], num=4)  # type: ignore[arg-type]
    for i in (3, 0, 2, 1):
        lines.append(f"{i}.png\t{'n01629819' if i % 2 else 'n01443537'}\t0\t0\t62\t63\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    data = open_dataset(tmp_path)
    assert data.classes == ("n01443537", "n01629819")
    assert data.splits["val"].labels.tolist() == [0, 1, 0, 1]
    assert [data.splits["val"].name(i) for i in (0, 3)] == ["val/images/0.png", "val/images/3.png"]
    assert set(data.splits) == {"train", "val"}
    assert "4 images are ignored, in no class folder" in data.messages[0]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=r"3\.png in .*val_annotations\.txt; got: no line"):
        open_dataset(tmp_path)


def test_names_that_are_not_utf_8_or_have_line_breaks(tmp_path: Path) -> None:
    fill(tmp_path)
    odd = os.fsencode(tmp_path / "a") + b"/caf\xe9\n1.png"
    os.rename(tmp_path / "a" / "0.png", odd)
    (tmp_path / "b").rename(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff"))
    data = open_dataset(tmp_path, val_fraction=0.4)
    assert all_names(data)[4] == os.fsdecode(b"a/caf\xe9\n1.png")
    assert data.classes == ("a", "b\udcff")
    again = open_dataset(tmp_path, split_record=data.split_record)
    assert again.fingerprint == data.fingerprint


def test_the_fingerprint_sees_images_of_equal_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    before = open_dataset(tmp_path)
    fingerprint, record = before.fingerprint, before.split_record
    reads: list[Path] = []
    digest = cache._whole_digest
    monkeypatch.setattr(cache, "_whole_digest", lambda path: (reads.append(path), digest(path))[1])
    assert open_dataset(tmp_path, split_record=record).fingerprint == fingerprint
    assert not [path for path in reads if path.suffix == ".png"]
    path = tmp_path / "a" / "1.png"
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size and modification time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    reads.clear()
    assert open_dataset(tmp_path, split_record=record).fingerprint != fingerprint
    assert [path for path in reads if path.suffix == ".png"] == [path]
    path.write_bytes(content)
    assert open_dataset(tmp_path, split_record=record).fingerprint == fingerprint
