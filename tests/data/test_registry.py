"""The named datasets other than CIFAR, unknown names, and idx files."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from reslab.data import dataset_info
from reslab.data.formats import small
from reslab.data.formats.small import read_idx
from reslab.data.named import DATASETS
from reslab.data.registry import list_dataset, open_dataset
from reslab.runtime.distributed import ProcessGroup
from reslab.training.options import TrainOptions
from reslab.training.run_data import DataOptions, open_train_data
from reslab.training.setup import setup_run


def test_digits_are_scaled_and_split_as_recorded() -> None:
    from sklearn.datasets import load_digits

    bundled = load_digits()
    data = open_dataset("digits")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 1438, "test": 359}
    record = data.split_record
    assert (record["method"], record["into"], record["fraction"], record["seed"]) == ("stratified", "test", 0.2, 0)
    held = np.array(record["indices"])
    kept = np.setdiff1d(np.arange(1797), held)
    for split, indices in (("train", kept), ("test", held)):
        images = data.splits[split]
        expected = np.round(bundled.images[indices] * 255 / 16).astype(np.uint8)
        assert np.array_equal(images.images[:, 0].numpy(), expected)  # type: ignore[attr-defined]
        assert np.array_equal(images.labels.numpy(), bundled.target[indices])
    counts, whole = data.splits["test"].labels.bincount(), torch.tensor(bundled.target).bincount()
    assert torch.equal(counts, (whole * 0.2 + 0.5).long())
    assert data.preprocess.channels == 1
    scaled = data.splits["train"].images.double() / 255  # type: ignore[attr-defined]
    assert data.preprocess.mean == (round(float(scaled.mean()), 4),)
    assert data.preprocess.std == (round(float(scaled.std(correction=0)), 4),)


def test_digits_are_the_same_every_time() -> None:
    data = open_dataset("digits")
    assert data.fingerprint == open_dataset("digits", split_record=data.split_record).fingerprint
    # Seed and fraction are for a validation part; the test part is fixed.
    other = open_dataset("digits", val_fraction=0.1, split_seed=7)
    assert torch.equal(other.splits["test"].images, data.splits["test"].images)  # type: ignore[attr-defined]
    assert len(other.splits["train"]) + len(other.splits["val"]) == 1438
    assert open_dataset("digits", split_record=other.split_record).fingerprint == other.fingerprint


def test_digits_are_read_through_scikit_learn_where_its_file_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    table = small.read_digits_table()
    monkeypatch.setattr(small.importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(small.read_digits_table(), table)


IMAGES = {split: np.arange(num * 12, dtype=np.uint8).reshape(num, 3, 4) for split, num in (("train", 4), ("t10k", 2))}


def idx_bytes(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, ending: str = "", dot: str = "-") -> Path:
    folder.mkdir(parents=True)
    for split, images in IMAGES.items():
        labels = np.arange(len(images), dtype=np.uint8)
        for kind, array in ((f"images{dot}idx3", images), (f"labels{dot}idx1", labels)):
            content = idx_bytes(array)
            (folder / f"{split}-{kind}-ubyte{ending}").write_bytes(gzip.compress(content) if ending else content)
    return folder


@pytest.mark.parametrize("subfolder", [".", "MNIST/raw", "raw", "mnist", "mnist/MNIST/raw"])
@pytest.mark.parametrize(("ending", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_idx_files_are_located(tmp_path: Path, subfolder: str, ending: str, dot: str) -> None:
    write_idx(tmp_path / "data" / subfolder, ending, dot)
    data = open_dataset("mnist", tmp_path / "data")
    assert np.array_equal(data.splits["train"].images[:, 0].numpy(), IMAGES["train"])  # type: ignore[attr-defined]
    assert np.array_equal(data.splits["test"].images[:, 0].numpy(), IMAGES["t10k"])  # type: ignore[attr-defined]
    assert data.splits["train"].labels.tolist() == [0, 1, 2, 3]
    assert (data.preprocess.mean, data.preprocess.std) == ((0.1307,), (0.3081,))
    assert data.location == str((tmp_path / "data" / subfolder).resolve())


def test_fashion_mnist_is_read_from_the_systems_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = DATASETS["fashion-mnist"]
    assert entry.system_dirs == ("/usr/share/datasets/fashion-mnist",)
    here = str(write_idx(tmp_path / "system", ".gz"))
    monkeypatch.setitem(DATASETS, "fashion-mnist", type(entry)(**{**vars(entry), "system_dirs": (here,)}))
    data = open_dataset("fashion-mnist", tmp_path / "nothing")
    assert (data.location, data.classes[8:], data.preprocess.mean) == (here, ("Bag", "Ankle boot"), (0.2860,))


def test_the_offline_error_names_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, root: str) -> None:
        raise RuntimeError(f"Error downloading {name}")

    monkeypatch.setattr(dataset_info, "_download", unreachable)
    with pytest.raises(ValueError) as caught:
        open_dataset("mnist", tmp_path)
    for part in (
        "Error downloading MNIST",
        "train-images-idx3-ubyte[.gz]",
        "t10k-labels",
        f"into {tmp_path}",
        "--data-dir",
    ):
        assert part in str(caught.value)
    monkeypatch.setattr(dataset_info, "_download", lambda name, root: write_idx(Path(root, name, "raw")))
    assert len(open_dataset("mnist", tmp_path).splits["train"]) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"GIF89a..", "it starts with 47 49 46 38"),
        (idx_bytes(IMAGES["train"])[:-1], "with 48 bytes of data; got: 47"),
        (b"\0\0\x0d\x01\0\0\0\0", "idx file of bytes"),
    ],
)
def test_broken_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_idx(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_broken_gzip_and_unequal_lengths(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "a", ".gz")
    path = folder / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-9], b"no gzip"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="truncated or not gzip"):
            open_dataset("mnist", folder)
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(3, dtype=np.uint8))))
    with pytest.raises(ValueError, match=r"as many images in .*\(4, 3, 4\) and \(3,\)"):
        open_dataset("mnist", folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr10", "unknown dataset or folder 'cifr10'; nearest: 'cifar10'"),
        ("fashion_mnist", "'fashion-mnist'"),
        ("fotos", "or the folder ./photos"),
        ("nowhere/photos", "no such folder"),
        ("s3://bucket/train-{000..009}.tar", "a URL of https or http"),
        ("", "got: an empty text"),
        ("x" * 5000, "'... (File name too long); check the path"),
        (f"photos/{'x' * 300}", "(File name too long); check the path"),
        ("~nobody-of-this-name/photos", "got: '~nobody-of-this-name/photos' (Could not determine home directory.)"),
        ("photos/\0", "(embedded null byte); check the path"),
    ],
)
def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    for open_it in (open_dataset, list_dataset, train_on):
        with pytest.raises(ValueError) as caught:
            open_it(name)
        if open_it is not list_dataset or "://" not in name:
            assert message in str(caught.value)
        assert len(str(caught.value)) < 500


def train_on(data: Any) -> None:
    setup_run(TrainOptions(data=data), None, ProcessGroup())


@pytest.mark.parametrize(
    "wrap", [tuple, list, lambda pair: TensorDataset(*pair), lambda pair: [p.numpy() for p in pair]]
)
def test_objects_are_taken_as_by_train(wrap: Any) -> None:
    pair = (torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), torch.arange(20) % 2)
    data = open_dataset(wrap(pair), val_fraction=0.2)
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 16, "val": 4}
    assert data.fingerprint == open_train_data(wrap(pair), DataOptions(val_fraction=0.2)).fingerprint
    again = open_dataset(wrap(pair), split_record=data.split_record)
    assert torch.equal(again.splits["val"].labels, data.splits["val"].labels)
    assert open_dataset(data) is data
    assert open_dataset((torch.zeros(4, 1, 16), torch.arange(4) % 2), dims=1).splits["train"].preview(0).shape[0] == 1


def test_options_of_files_are_refused_for_objects_and_objects_where_a_path_is_needed() -> None:
    pair = (torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.arange(4) % 2)
    with pytest.raises(ValueError, match="the path of a CSV file, where columns are named; got: a tuple"):
        open_dataset(pair, columns={"label": "class"})
    with pytest.raises(ValueError, match="a path, where mask_values is given; got: a tuple"):
        open_dataset(pair, mask_values="instances")
    with pytest.raises(ValueError, match="the name or path of a dataset; got: a tuple"):
        list_dataset(pair)  # type: ignore[arg-type]


def test_fraction_is_checked_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        open_dataset("digits", val_fraction=2)


def test_every_entry_has_a_source() -> None:
    for entry in DATASETS.values():
        assert entry.reference
        assert bool(entry.mean) == bool(entry.std) == bool(entry.statistics_source)
        assert len(entry.mean) in (0, entry.channels)


def test_datasets_of_other_tasks_are_named_as_such() -> None:
    with pytest.raises(ValueError, match="got: kinetics, a dataset for videos, which is not"):
        open_dataset("kinetics")


def test_known_and_unknown_names_without_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("voc", "VOC2007", "pascal-voc", "coco", "ms-coco"):
        with pytest.raises(ValueError, match=f"got: {name}, which is not read by its name; .* images with masks"):
            open_dataset(name)
    with pytest.raises(ValueError, match="got: tiny-imagenet, which is not read by its name; download it"):
        open_dataset("tiny-imagenet")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        open_dataset("phots")
    assert str(caught.value).startswith("unknown dataset or folder 'phots'; known: 'digits'")
    assert str(caught.value).endswith("or the folder ./photos")
    with pytest.raises(ValueError, match="nearest: 'cifar10'"):
        open_dataset("cifar-10")
