"""A folder of class folders: what is read, how it is split, and everything that can be wrong with it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from reslab.data import cache as scanning
from reslab.data.dataset import DatasetSplits
from reslab.data.formats.class_folders import LabeledFiles, align_classes
from reslab.data.image_datasets import FileImageDataset
from reslab.data.registry import list_dataset, open_dataset
from reslab.runtime.files import cache_dir


def image(path: Path, colour: int = 0, size: tuple[int, int] = (80, 70)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 40, 50)).save(path)


def fill(folder: Path, classes: str = "ab", num: int = 5) -> Path:
    for name in classes:
        for i in range(num):
            image(folder / name / f"{i}.png", 10 * i)
    return folder


def names(data: DatasetSplits, split: str) -> list[str]:
    images = data.splits[split]
    return [images.name(i) for i in range(len(images))]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_given_splits_are_taken(tmp_path: Path, val: str) -> None:
    fill(tmp_path / "train"), fill(tmp_path / val, num=2), fill(tmp_path / "test", num=3)
    data = open_dataset(str(tmp_path))
    assert (data.name, data.classes, data.num_classes) == (tmp_path.name, ("a", "b"), 2)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 10, "val": 4, "test": 6}
    assert (data.split_record, data.eval_split, data.location) == ({"method": "given"}, "test", str(tmp_path))
    assert names(data, "val") == [f"{val}/a/0.png", f"{val}/a/1.png", f"{val}/b/0.png", f"{val}/b/1.png"]
    assert data.splits["val"].labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(data.splits["train"].preview(3)[:, 0, 0], torch.tensor([30, 40, 50], dtype=torch.uint8))


def test_one_folder_is_split_and_split_again(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "cab", num=10)
    data = open_dataset(tmp_path / "photos")
    assert data.classes == ("a", "b", "c")
    assert data.splits["val"].labels.bincount().tolist() == [2, 2, 2]
    assert data.splits["train"].labels.bincount().tolist() == [8, 8, 8]
    assert not set(names(data, "val")) & set(names(data, "train"))
    record, fingerprint = json.loads(json.dumps(data.split_record)), data.fingerprint
    (tmp_path / "photos").rename(tmp_path / "moved")
    image(tmp_path / "moved" / "a" / "00new.png")
    again = open_dataset(tmp_path / "moved", split_record=record)
    assert names(again, "val") == names(data, "val")
    assert set(names(again, "train")) == {*names(data, "train"), "a/00new.png"}
    (tmp_path / "moved" / "a" / "00new.png").unlink()
    assert open_dataset(tmp_path / "moved", split_record=record).fingerprint == fingerprint
    assert names(open_dataset(tmp_path / "moved", split_seed=1), "val") != names(data, "val")


def test_train_without_val_is_split_and_test_stays(tmp_path: Path) -> None:
    fill(tmp_path / "train", num=10)
    assert {name: len(images) for name, images in open_dataset(tmp_path).splits.items()} == {"train": 16, "val": 4}
    fill(tmp_path / "test", num=3)
    assert set(open_dataset(tmp_path).splits) == {"train", "test"}
    data = open_dataset(tmp_path, val_fraction=0.3)
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 14, "val": 6, "test": 6}
    again = open_dataset(tmp_path, split_record=data.split_record)
    assert {name: names(again, name) for name in again.splits} == {name: names(data, name) for name in data.splits}


def test_deeper_folders_and_hidden_files(tmp_path: Path) -> None:
    fill(tmp_path, num=2)
    image(tmp_path / "a" / "deep" / "x.JPG")
    for hidden in (tmp_path / ".trash" / "x.png", tmp_path / "a" / ".x.png", tmp_path / "a" / ".thumbs" / "x.png"):
        image(hidden)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    data = open_dataset(tmp_path, val_fraction=0.5)
    result = sorted(names(data, "train") + names(data, "val"))
    assert result == ["a/0.png", "a/1.png", "a/deep/x.JPG", "b/0.png", "b/1.png"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        fill(tmp_path, [name], num=5)  # type: ignore[arg-type]
    assert open_dataset(tmp_path).classes == ("bus", "train")


def test_photographs_are_preprocessed_as_imagenets(tmp_path: Path) -> None:
    preprocess = open_dataset(fill(tmp_path)).preprocess
    assert preprocess.transform == "resize(256) center-crop(224)"
    assert (preprocess.channels, preprocess.mean, preprocess.std) == (3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_small_images_keep_their_size(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(5):
            image(tmp_path / name / f"{i}.png", size=(28, 28))
    assert open_dataset(tmp_path).preprocess.transform == ""
    image(tmp_path / "a" / "5.png", size=(30, 40))
    assert open_dataset(tmp_path).preprocess.transform == "resize(29) center-crop(29)"


def refused(folder: Path, **options: float) -> str:
    with pytest.raises(ValueError) as caught:
        open_dataset(folder, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_invalid_folders(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    message = refused(tmp_path / "photo")
    assert "no such folder" in message
    assert f"nearest valid: {tmp_path / 'photos'}" in message
    (tmp_path / "file").touch()
    assert "which is a file" in refused(tmp_path / "file")
    (tmp_path / "bare").mkdir()
    assert "class folders in" in refused(tmp_path / "bare")
    image(tmp_path / "flat" / "1.png")
    assert "1 images directly in it; move them" in refused(tmp_path / "flat")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "photos.zip").touch()
    assert "archives (photos.zip); unpack them" in refused(tmp_path / "packed")


def test_a_flat_validation_folder_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    image(tmp_path / "val" / "1.png")
    message = refused(tmp_path)
    assert f"class folders in {tmp_path / 'val'}; got: 1 images directly in it" in message
    assert "CSV" in message
    (tmp_path / "val").rename(tmp_path / "test")  # a test set without labels, which nobody can judge by
    assert set(open_dataset(tmp_path).splits) == {"train", "val"}


def test_single_class(tmp_path: Path) -> None:
    assert "a single class, 'a'" in refused(fill(tmp_path, "a"))


def test_empty_class_folders(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    assert "none in empty/, none/" in refused(tmp_path)
    (tmp_path / "second" / "x").mkdir(parents=True)
    (tmp_path / "second" / "y").mkdir()
    assert "none in x/, y/" in refused(tmp_path / "second")


def test_classes_that_differ(tmp_path: Path) -> None:
    fill(tmp_path / "train", ["ants", "bees"])  # type: ignore[arg-type]
    fill(tmp_path / "val", ["ant", "bees", "wasps"])  # type: ignore[arg-type]
    message = refused(tmp_path)
    assert f"ants/ only in {tmp_path / 'train'}; ant/, wasps/ only in {tmp_path / 'val'}" in message
    assert "ants for ant" in message


def test_validation_images_may_lack_classes_in_folders_as_in_a_csv_file(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    fill(root / "train", "abcd"), fill(root / "val", "bd", num=2), fill(root / "test", "c", num=1)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name},{path.parts[-3]}" for path in sorted(root.rglob("*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    (tmp_path / "flat").mkdir()
    flat_rows = [f"{i}.png,{row.split(',', 1)[1]}" for i, row in enumerate(rows)]
    (tmp_path / "flat" / "labels.csv").write_text("\n".join(["path,label,split", *flat_rows]))
    for i in range(len(rows)):
        image(tmp_path / "flat" / f"{i}.png", i)
    for path in (root, tmp_path / "list.csv", tmp_path / "flat"):
        data, listing = open_dataset(path), list_dataset(path)
        assert data.classes == listing.classes == ("a", "b", "c", "d")
        assert data.splits["val"].labels.tolist() == [1, 1, 3, 3]
        assert data.splits["test"].labels.tolist() == [2]
        assert data.messages[-2:] == (
            "no validation image has the classes a, c, of 4 classes",
            "no test image has the classes a, b, d, of 4 classes",
        )
        assert listing.layout_error == ""
        assert listing.messages[-2:] == data.messages[-2:]
        assert listing.splits["val"].labels.tolist() == [1, 1, 3, 3]


def test_two_validation_folders_or_no_training(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "train"), fill(tmp_path / "one" / "val"), fill(tmp_path / "one" / "valid")
    assert "both val/ and valid/; nearest valid: val/" in refused(tmp_path / "one")
    fill(tmp_path / "two" / "val"), fill(tmp_path / "two" / "test")
    assert "only test/, val/; nearest valid: train/" in refused(tmp_path / "two")


def test_fractions(tmp_path: Path) -> None:
    fill(tmp_path / "one")
    assert "between 0 and 1; got: 1.5" in refused(tmp_path / "one", val_fraction=1.5)
    assert "leaves none for validation" in refused(tmp_path / "one", val_fraction=0.01)
    fill(tmp_path / "two" / "train"), fill(tmp_path / "two" / "val")
    assert "a validation folder and a fraction" in refused(tmp_path / "two", val_fraction=0.2)


def test_one_sample(tmp_path: Path) -> None:
    fill(tmp_path, num=1)
    assert "at least 2 images of every class" in refused(tmp_path)


def test_unreadable_images_are_all_listed(tmp_path: Path) -> None:
    fill(tmp_path)
    whole = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "empty.jpg").touch()
    (tmp_path / "b" / "text.gif").write_text("no image")
    message = refused(tmp_path)
    assert message.startswith("3 images in ")
    assert "--skip-bad-images" in message
    for line in ("a/cut.png: truncated", "b/empty.jpg: empty (0 bytes)", "b/text.gif: not an image"):
        assert f"\n  {tmp_path}/{line}" in message
    data = open_dataset(tmp_path, skip_bad_images=True)
    assert [path for path, _ in data.skipped_files] == ["a/cut.png", "b/empty.jpg", "b/text.gif"]
    assert len(data.splits["train"]) + len(data.splits["val"]) == 10
    # The record alone skips the same ones again, and nothing that broke since.
    again = open_dataset(tmp_path, split_record=json.loads(json.dumps(data.split_record)))
    assert (again.skipped_files, again.fingerprint) == (data.skipped_files, data.fingerprint)
    (tmp_path / "a" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 image in [^\0]* cannot be read[^\0]*a/0\.png: empty"):
        open_dataset(tmp_path, split_record=data.split_record)


def test_class_of_unreadable_images_only(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.png").touch()
    message = refused(tmp_path, skip_bad_images=True)
    assert message == f"required: a readable training image of every class in {tmp_path}; got: none of c"


def test_validation_images_of_a_class_may_all_be_unreadable(tmp_path: Path) -> None:
    fill(tmp_path / "train"), fill(tmp_path / "val", num=2)
    for path in (tmp_path / "val" / "b").glob("*.png"):
        path.write_bytes(b"")
    assert "2 images in" in refused(tmp_path)
    data = open_dataset(tmp_path, skip_bad_images=True)
    assert data.splits["val"].labels.tolist() == [0, 0]
    assert data.messages == ("no validation image has the class b, of 2 classes",)
    for path in (tmp_path / "val" / "a").glob("*.png"):
        path.write_bytes(b"")
    assert f"required: validation images in {tmp_path.name}; got: none" in refused(tmp_path, skip_bad_images=True)


def test_labels_that_are_no_class_are_not_aligned(tmp_path: Path) -> None:
    files = LabeledFiles(tmp_path, ("a", "b"), (tmp_path / "0.png",), ((0.0, 1.0),), "multi-label")
    with pytest.raises(AssertionError, match=r"the number of a class; got: \(0\.0, 1\.0\)"):
        align_classes({"train": files})


def test_files_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    looked: list[Path] = []
    decode = scanning.decode_image
    monkeypatch.setattr(scanning, "decode_image", lambda path, **kw: (looked.append(path), decode(path, **kw))[1])
    open_dataset(tmp_path)
    assert len(looked) == 10
    looked.clear()
    open_dataset(tmp_path)
    assert looked == []
    image(tmp_path / "a" / "3.png", size=(99, 98))
    open_dataset(tmp_path)
    assert looked == [tmp_path / "a" / "3.png"]


def test_a_cache_that_cannot_be_used_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "photos")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "file" / "inside"))
    assert cache_dir() == tmp_path / "file" / "inside"
    assert len(open_dataset(tmp_path / "photos").splits["train"]) == 8
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    expected = open_dataset(tmp_path / "photos").fingerprint
    for path in (tmp_path / "cache" / "scans").iterdir():
        path.write_text('{"format": "1", "fi')
    data = open_dataset(tmp_path / "photos")
    assert data.fingerprint == expected
    assert isinstance(data.splits["train"], FileImageDataset)


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz", "photos.zip"])
def test_archives_are_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    assert "an archive; unpack it" in refused(tmp_path / name)
