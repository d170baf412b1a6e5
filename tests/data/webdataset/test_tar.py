"""Shards of a user's own data: the same samples, splits and errors as of a folder, read where they lie."""

import gzip
import io
import json
import pickle
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data.image_datasets import FileImageDataset, ShardImageDataset, TensorImageDataset
from reslab.data.loader import TrainLoader
from reslab.data.registry import list_dataset, open_dataset
from reslab.data.webdataset import tar as shard_index

NUM = 12


def encoded(i: int, size: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(keys: range, size: tuple[int, int] = (80, 70), label: str = "{}") -> dict[str, bytes]:
    files = {}
    for i in keys:
        files[f"{i:03}.png"] = encoded(i, size)
        files[f"{i:03}.cls"] = label.format(i % 2).encode()
    return files


def write_shards(folder: Path, size: tuple[int, int] = (80, 70), prefix: str = "") -> Path:
    write_tar(folder / f"{prefix}0.tar", samples(range(6), size))
    write_tar(folder / f"{prefix}1.tar", samples(range(6, NUM), size))
    return folder


def write_folder(folder: Path, size: tuple[int, int] = (80, 70)) -> Path:
    for i in range(NUM):
        path = folder / "01"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, size))
    return folder


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_those_of_the_tar(tmp_path: Path, kind: int) -> None:
    write_tar(tmp_path / "train-0.tar", {"é" * 40 + "/note.txt": b"x", **samples(range(4))}, kind)
    with pytest.raises(ValueError, match=r"note with an image"):
        open_dataset(tmp_path)
    write_tar(tmp_path / "train-0.tar", samples(range(8)), kind)
    write_tar(tmp_path / "val" / "a.tar", samples(range(8, NUM)), kind)
    data = open_dataset(tmp_path)
    assert (data.classes, data.split_record) == (("0", "1"), {"method": "given"})
    images = data.splits["train"]
    assert isinstance(images, ShardImageDataset)
    assert [images.name(i) for i in range(2)] == ["train-0.tar/000.png", "train-0.tar/001.png"]
    assert data.splits["val"].name(3) == "val/a.tar/011.png"
    for i in range(8):
        expected = np.asarray(Image.open(io.BytesIO(encoded(i, (80, 70))))).transpose(2, 0, 1)
        assert np.array_equal(images.preview(i).numpy(), expected)
        assert int(images.labels[i]) == i % 2


def test_split_and_split_again(tmp_path: Path) -> None:
    data = open_dataset(write_shards(tmp_path / "shards"))
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 10, "val": 2}
    record = json.loads(json.dumps(data.split_record))
    (tmp_path / "shards").rename(tmp_path / "moved")
    again = open_dataset(tmp_path / "moved", split_record=record)
    assert again.fingerprint == data.fingerprint
    assert open_dataset(tmp_path / "moved", split_seed=1).fingerprint != data.fingerprint


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_the_folder(tmp_path: Path, workers: int) -> None:
    pairs = []
    for data in (open_dataset(write_shards(tmp_path / "a")), open_dataset(write_folder(tmp_path / "b"))):
        whole = sorted((images.name(i)[-7:], images, i) for images in data.splits.values() for i in range(len(images)))
        # The same order of samples in both, that of the keys.
        parts = [images.subset([i]) for _, images, i in whole]
        labels = torch.cat([part.labels for part in parts])
        if isinstance(parts[0], ShardImageDataset):
            images = ShardImageDataset(tuple(part.locations[0] for part in parts), labels, 3, parts[0].root)  # type: ignore[union-attr]
        else:
            images = FileImageDataset(tuple(part.paths[0] for part in parts), labels, 3, None)  # type: ignore[union-attr,assignment]
        batches = TrainLoader(
            images, 5, "random-resized-crop(16) flip randaugment", data.preprocess, 3, "cpu", num_workers=workers
        )
        pairs.append(list(islice(batches.iter_from(1), 3)))
    for one, other in zip(*pairs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_small_images_are_decoded_to_memory(tmp_path: Path) -> None:
    data = open_dataset(write_shards(tmp_path, size=(28, 20), prefix="train-"))
    images = data.splits["train"]
    assert isinstance(images, TensorImageDataset)
    assert data.preprocess.transform == ""
    for i in range(len(images)):
        number = int(images.name(i)[-7:-4])
        expected = np.asarray(Image.open(io.BytesIO(encoded(number, (28, 20))))).transpose(2, 0, 1)
        assert np.array_equal(images.preview(i).numpy(), expected)


def test_shards_are_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    decode = shard_index.decode_image
    monkeypatch.setattr(shard_index, "decode_image", lambda b, **kw: (looked.append(kw["name"]), decode(b, **kw))[1])
    write_shards(tmp_path)
    open_dataset(tmp_path)
    assert sorted(looked) == [f"{i:03}" for i in range(NUM)]
    looked.clear()
    open_dataset(tmp_path)
    assert looked == []
    write_tar(tmp_path / "1.tar", samples(range(6, 9)))
    open_dataset(tmp_path)
    assert sorted(looked) == ["006", "007", "008"]


def test_the_images_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    images = open_dataset(write_shards(tmp_path)).splits["train"]
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again.preview(3), images.preview(3))


def test_labels_by_name_number_and_json(tmp_path: Path) -> None:
    def labelled(ending: str, texts: list[str]) -> dict[str, bytes]:
        files = {}
        for i, text in enumerate(texts):
            files |= {f"{i}.png": encoded(i, (70, 70)), f"{i}.{ending}": text.encode()}
        return files

    write_tar(tmp_path / "a" / "x.tar", labelled("cls", ["wasp\n", "ant", "wasp", "ant"]))
    data = open_dataset(tmp_path / "a", val_fraction=0.5)
    assert data.classes == ("ant", "wasp")
    write_tar(
        tmp_path / "b" / "x.tar", labelled("json", ['{"label": 1}', '{"label": 0}', '{"label": 1}', '{"label": 0}'])
    )
    (tmp_path / "b" / "classes.txt").write_text("ant\nwasp\nbee\n")
    data = open_dataset(tmp_path / "b" / "x.tar", val_fraction=0.5)
    assert (data.name, data.classes) == ("x", ("ant", "wasp", "bee"))
    names = {images.name(i): int(images.labels[i]) for images in data.splits.values() for i in range(len(images))}
    assert names == {"x.tar/0.png": 1, "x.tar/1.png": 0, "x.tar/2.png": 1, "x.tar/3.png": 0}


def test_unreadable_images_are_listed_and_skipped(tmp_path: Path) -> None:
    files = samples(range(NUM))
    files["004.png"] = files["004.png"][:300]
    files["005.png"] = b""
    write_tar(tmp_path / "train-0.tar", files)
    with pytest.raises(ValueError, match=r"2 images in .* cannot be read") as caught:
        open_dataset(tmp_path)
    assert f"\n  {tmp_path}/train-0.tar/004.png: truncated" in str(caught.value)
    assert "train-0.tar/005.png: empty (0 bytes)" in str(caught.value)
    data = open_dataset(tmp_path, skip_bad_images=True)
    assert [name for name, _ in data.skipped_files] == ["train-0.tar/004.png", "train-0.tar/005.png"]
    again = open_dataset(tmp_path, split_record=data.split_record)
    assert (again.skipped_files, again.fingerprint) == (data.skipped_files, data.fingerprint)


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        open_dataset(folder)
    return str(caught.value)


def test_invalid_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "val-0.tar", samples(range(4)))
    assert "train-*.tar in" in refused(tmp_path / "a")
    write_tar(tmp_path / "a" / "more.tar", samples(range(4)))
    assert "more.tar beside such names; nearest valid: train-more.tar" in refused(tmp_path / "a")
    write_tar(tmp_path / "b" / "x.tar", samples(range(4), label="7"))
    (tmp_path / "b" / "classes.txt").write_text("ant\nwasp\n")
    assert "labels below 2" in refused(tmp_path / "b")
    write_tar(tmp_path / "c" / "train.tar", samples(range(4), label="ant{}"))
    write_tar(tmp_path / "c" / "val.tar", samples(range(4), label="ants{}"))
    assert "'ants0'; nearest valid: ant" in refused(tmp_path / "c")
    write_tar(tmp_path / "d" / "x.tar", samples(range(4), label=" "))
    assert "000.cls with a label; got: an empty file" in refused(tmp_path / "d")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "train-000.tar").touch()
    assert "train-000.tar: truncated or not a tar file (0 bytes)" in refused(tmp_path / "e")
    whole = write_tar(tmp_path / "f" / "x.tar", samples(range(4))).read_bytes()
    (tmp_path / "f" / "x.tar").write_bytes(whole[:-9000])
    assert "x.tar: truncated or not a tar file" in refused(tmp_path / "f")


def test_two_samples_of_one_key_are_not_one(tmp_path: Path) -> None:
    """As of two folders of which only the names of the files were packed: the last would replace the first."""
    path = write_tar(tmp_path / "x.tar", samples(range(4)))
    with tarfile.open(path, "a") as tar:
        for name, content in samples(range(2, 6)).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert "every file of a sample once in" in refused(tmp_path)
    assert "x.tar; got: 002.png twice" in refused(tmp_path)


def numbered(labels: list[object], extension: str = "cls") -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for i, label in enumerate(labels):
        files |= {f"{i}.png": encoded(i, (70, 70)), f"{i}.{extension}": str(label).encode()}
    return files


def test_numeric_labels_that_training_lacks(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", numbered([0, 1, 0, 1]))
    write_tar(tmp_path / "val-0.tar", numbered([0, 2]))
    with pytest.raises(ValueError, match=r"validation labels that training images have too \(0 to 1\); got: label 2"):
        open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\nfly\n")
    assert "validation images have classes that no training image has: fly" in open_dataset(tmp_path).messages


def test_numeric_labels_from_one_or_beyond_the_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "one" / "train-0.tar", numbered([1, 2, 3, 1]))
    write_tar(tmp_path / "one" / "val-0.tar", numbered([1]))
    messages = open_dataset(tmp_path / "one").messages
    assert messages == (
        "no training image has the class 0, of 4 classes: labels seem to count from 1; subtract 1",
        "no validation image has the classes 2, 3, of 4 classes",
    )
    assert list_dataset(tmp_path / "one").messages == messages
    write_tar(tmp_path / "far" / "0.tar", numbered([0, 1, 10_000_000_000, 0]))
    with pytest.raises(ValueError, match=r"labels below 4, .* got: 10000000000, of 0\.tar/2\.png"):
        open_dataset(tmp_path / "far")
    write_tar(tmp_path / "huge" / "0.tar", numbered([0, 1, "1" * 4000, 0]))
    with pytest.raises(ValueError, match="a number of 4000 digits"):
        open_dataset(tmp_path / "huge")


def test_validation_images_of_a_class_or_of_all_may_be_unreadable(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", numbered([0, 1, 0, 1]))
    write_tar(tmp_path / "val-0.tar", numbered([0, 1]) | {"1.png": b"no image"})
    data = open_dataset(tmp_path, skip_bad_images=True)
    assert data.messages == ("no validation image has the class 1, of 2 classes",)
    small = {f"{i}.png": encoded(i, (9, 9)) for i in range(4)}
    write_tar(tmp_path / "train-0.tar", numbered([0, 1, 0, 1]) | small)
    write_tar(tmp_path / "val-0.tar", numbered([0, 1]) | {"0.png": b"no image", "1.png": b"no image"})
    with pytest.raises(ValueError, match=f"required: validation images in {tmp_path.name}; got: none"):
        open_dataset(tmp_path, skip_bad_images=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"label": ' + "[" * 100_000, "0.json with a label"),
        ('{"label": {"a": 1}}', "a name or a whole number; got: a dict"),
        ('{"label": true}', "a name or a whole number; got: a bool"),
        ('{"label": [{"a": 1}]}', "a list of names or numbers as label; got: {'a': 1}"),
        ('{"labels": ["a|b"]}', "a list of names or numbers as label; got: 'a|b'"),
        ('{"other": 1}', "a label under the key label"),
        (f'{{"label": 1, "x": "{"y" * (1 << 22)}"}}', "a label of at most 4,194,304 bytes"),
    ],
)
def test_json_labels_that_are_none(tmp_path: Path, text: str, expected: str) -> None:
    write_tar(tmp_path / "0.tar", numbered([text], "json"))
    with pytest.raises(ValueError) as caught:
        open_dataset(tmp_path)
    assert expected in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_cut_anywhere_is_cut_short(tmp_path: Path, kind: int) -> None:
    files = {f"{'é' * (kind == tarfile.PAX_FORMAT)}{name}": content for name, content in samples(range(2)).items()}
    content = write_tar(tmp_path / "whole.tar", files, kind).read_bytes()
    end = max(k for k in range(0, len(content), 512) if content[k : k + 512] != bytes(512)) + 512
    path = tmp_path / "cut.tar"
    for length in [*range(1, 2 * 512, 83), *range(end - 3 * 512, end + 512, 41), end, end + 511]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.tar: truncated or not a tar file"):
            shard_index.list_tar_members(path, path.read_bytes())
    path.write_bytes(content[: end + 512])
    assert len(shard_index.list_tar_members(path, path.read_bytes())) == 4


def test_sizes_that_no_file_has_name_the_member(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "0.tar", samples(range(2))).read_bytes())
    content[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    chksum = sum(content[:148]) + 8 * 32 + sum(content[156:512])
    content[148:156] = f"{chksum:06o}\0 ".encode()
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"its member '000\.png' has 1,152,921,504,606,846,976 bytes"):
        open_dataset(tmp_path)


def test_compressed_tars_are_named_as_such(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", samples(range(2)))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"0\.tar as a plain tar file; got: gzip data; decompress it"):
        open_dataset(tmp_path)


def test_the_fingerprint_sees_images_of_equal_size_in_shards(tmp_path: Path) -> None:
    path = write_shards(tmp_path) / "0.tar"
    before, content = open_dataset(tmp_path).fingerprint, bytearray(path.read_bytes())
    offset = content.index(b"IEND") + 4  # the checksum of a PNG's last chunk, which decoders ignore
    content[offset] ^= 1
    path.write_bytes(content)
    assert open_dataset(tmp_path).fingerprint != before


def test_images_next_to_shards_are_reported(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(range(8)))
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.png").write_bytes(encoded(1, (9, 9)))
    data = open_dataset(tmp_path)
    assert [text for text in data.messages if "1 image file beside the tar files" in text and "cats/1.png" in text]
    assert list_dataset(tmp_path).messages == data.messages
