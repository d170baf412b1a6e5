"""CIFAR's four forms made tiny give the same tensors; what is broken or missing is named.

The book's two classes: which images of CIFAR-10 they are, in which order, under which names.
"""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data import cache, dataset_info
from reslab.data.dataset import DatasetSplits
from reslab.data.formats import cifar
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.named import DATASETS
from reslab.data.registry import open_dataset
from reslab.data.webdataset.tar import list_tar_members, read_shards
from reslab.runtime.files import cache_dir

NUM = {"train": 20, "test": 10}
PIXELS = {
    split: torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(num))
    for split, num in NUM.items()
}
# By class, as class folders list them: every form then has one order.
LABELS = {"train": torch.arange(10).repeat_interleave(2), "test": torch.arange(10)}
NAMES = DATASETS["cifar10"].classes


def image(split: str, i: int, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[split][i].permute(1, 2, 0).numpy()).save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def parts(split: str, names: tuple[str, ...]) -> list[tuple[str, slice]]:
    each = NUM[split] // len(names)
    return [(name, slice(k * each, (k + 1) * each)) for k, name in enumerate(names)]


def write_python(folder: Path, entry: str = "cifar10") -> Path:
    files = DATASETS[entry].layout
    (folder / files.python_folder).mkdir(parents=True)
    for split, names in files.python_files.items():
        for name, part in parts(split, names):
            batch = {
                "data": PIXELS[split][part].reshape(-1, 3072).numpy(),
                files.label_key: LABELS[split][part].tolist(),
            }
            (folder / files.python_folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def write_binary(folder: Path, entry: str = "cifar10") -> Path:
    files = DATASETS[entry].layout
    (folder / files.binary_folder).mkdir(parents=True)
    for split, names in files.binary_files.items():
        for name, part in parts(split, names):
            labels = LABELS[split][part].to(torch.uint8)[:, None]
            coarse = [labels * 0 + 7] * (files.label_bytes - 1)
            records = torch.cat([*coarse, labels, PIXELS[split][part].reshape(-1, 3072)], 1)
            (folder / files.binary_folder / name).write_bytes(records.numpy().tobytes())
    return folder


def write_folders(folder: Path) -> Path:
    for split in NUM:
        for i, label in enumerate(LABELS[split].tolist()):
            path = folder / split / NAMES[label] / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image(split, i, format="png"))
    return folder


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder: Path) -> Path:
    for split, num in NUM.items():
        for shard in range(2):
            files = []
            for i in range(shard * num // 2, (shard + 1) * num // 2):
                ending, options = [("webp", {"lossless": True}), ("png", {})][i % 2]
                files += [
                    (f"{i:04}.{ending}", image(split, i, format=ending, **options)),
                    (f"{i:04}.cls", str(int(LABELS[split][i])).encode()),
                ]
            write_tar(folder / f"{split}-{shard:03}.tar", files)
    return folder


WRITERS = {"python": write_python, "binary": write_binary, "folders": write_folders, "shards": write_shards}


def assert_pixels(data: DatasetSplits) -> None:
    for split in NUM:
        assert torch.equal(data.splits[split].images, PIXELS[split])  # type: ignore[attr-defined]
        assert torch.equal(data.splits[split].labels, LABELS[split])


@pytest.mark.parametrize("form", WRITERS)
def test_four_forms_one_data_set(tmp_path: Path, form: str) -> None:
    data = open_dataset("cifar10", WRITERS[form](tmp_path / "data"))
    assert_pixels(data)
    assert (data.name, data.classes, data.eval_split) == ("cifar10", NAMES, "test")
    assert (data.preprocess.mean, data.preprocess.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert data.fingerprint == open_dataset("cifar10", write_binary(tmp_path / "again")).fingerprint


def test_files_may_lie_in_the_folder_itself_or_under_its_name(tmp_path: Path) -> None:
    assert_pixels(open_dataset("cifar10", write_python(tmp_path / "a") / "cifar-10-batches-py"))
    write_binary(tmp_path / "b" / "cifar10")
    assert_pixels(open_dataset("CIFAR10", tmp_path / "b"))


@pytest.mark.parametrize("write", [write_python, write_binary])
def test_cifar100_takes_the_fine_labels(tmp_path: Path, write: object) -> None:
    data = open_dataset("cifar100", write(tmp_path, "cifar100"))  # type: ignore[operator]
    assert_pixels(data)
    assert (data.num_classes, data.classes[:2], data.classes[99]) == (100, ("apple", "aquarium_fish"), "worm")


def test_the_cache_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path))
    write_shards(tmp_path / "cifar10")
    assert_pixels(open_dataset("cifar10"))
    assert_pixels(open_dataset("cifar10", tmp_path / "elsewhere"))


def test_classes_txt_names_the_labels(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(f"name{k}" for k in range(10)) + "\n")
    assert open_dataset("cifar10", tmp_path).classes[9] == "name9"


def test_validation_is_carved_and_recorded(tmp_path: Path) -> None:
    write_binary(tmp_path)
    data = open_dataset("cifar10", tmp_path, val_fraction=0.5)
    assert data.splits["val"].labels.tolist() == list(range(10))
    again = open_dataset("cifar10", tmp_path, split_record=data.split_record)
    assert again.fingerprint == data.fingerprint
    assert list(again.splits) == ["train", "val", "test"]


def test_slow_decoding_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_SECONDS_TO_CACHE", 0.0)
    folder = write_shards(tmp_path / "data")
    reads: list[int] = []
    monkeypatch.setattr(cifar, "read_shards", lambda paths: (reads.append(len(paths)), read_shards(paths))[1])
    assert_pixels(open_dataset("cifar10", folder))
    assert_pixels(open_dataset("cifar10", folder))
    assert reads == [2, 2]
    os.utime(folder / "test-000.tar", (0, 0))
    assert_pixels(open_dataset("cifar10", folder))
    assert reads == [2, 2, 2]
    for path in (cache_dir() / "decoded").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert_pixels(open_dataset("cifar10", folder))
    assert reads == [2, 2, 2, 2, 2]


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        open_dataset("cifar10", folder)
    return str(caught.value)


def test_the_offline_error_names_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, root: str) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(dataset_info, "_download", unreachable)
    message = refused(tmp_path / "data")
    for part in (
        "Network is unreachable",
        "cifar-10-python.tar.gz",
        "train-*.tar",
        f"into {tmp_path / 'data'}",
        "--data-dir",
    ):
        assert part in message


def test_a_download_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_info, "_download", lambda name, root: write_python(Path(root)))
    assert_pixels(open_dataset("cifar10", tmp_path))


def test_missing_and_broken_batches(tmp_path: Path) -> None:
    folder = write_python(tmp_path / "py") / "cifar-10-batches-py"
    (folder / "data_batch_3").write_bytes((folder / "data_batch_3").read_bytes()[:500])
    assert "data_batch_3: truncated or not a CIFAR batch" in refused(tmp_path / "py")
    (folder / "data_batch_3").unlink()
    assert "data_batch_3 missing" in refused(tmp_path / "py")
    path = write_binary(tmp_path / "bin") / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert "records of 3073 bytes" in refused(tmp_path / "bin")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_python(tmp_path / "py") / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Harmful(), "labels": []}, protocol=2))
    assert "it would run posix.mkdir" in refused(tmp_path / "py")
    assert not (tmp_path / "harm").exists()


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """The published batches name numpy's old modules; their arrays come as text of latin-1."""
    path = write_python(tmp_path) / "cifar-10-batches-py" / "data_batch_1"
    content = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    path.write_bytes(content)
    assert b"numpy.core.multiarray" in content
    assert_pixels(open_dataset("cifar10", tmp_path))


def test_other_class_folders_are_not_cifar(tmp_path: Path) -> None:
    for split in NUM:
        for name in ("ants", "bees"):
            path = tmp_path / split / name / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(image("test", 0, format="png"))
    assert f"2: ants, bees; for a dataset of your own: --data {tmp_path}" in refused(tmp_path)


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    good = image("test", 0, format="png")
    cases = {
        "label": ([("a.png", good), ("a.cls", b"cat")], "a.cls as a whole number; got: b'cat'"),
        "alone": ([("a.png", good)], "a with an image"),
        "text": ([("a.txt", b"x"), ("a.cls", b"1")], "got: .txt, .cls"),
        "broken": ([("a.png", good[:200]), ("a.cls", b"1")], "a.png: truncated"),
    }
    for name, (files, message) in cases.items():
        path = write_tar(tmp_path / f"{name}.tar", files)
        with pytest.raises(ValueError) as caught:
            read_shards([path])
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
    small = io.BytesIO()
    Image.new("RGB", (8, 9)).save(small, "png")
    path = write_tar(
        tmp_path / "two.tar", [("a.png", good), ("a.cls", b"1"), ("b.png", small.getvalue()), ("b.cls", b"1")]
    )
    with pytest.raises(ValueError, match="one size, 32x32 like a; got: b of 9x8"):
        read_shards([path])


@pytest.mark.parametrize("cut", [100, 700, 1100])
def test_cut_tars(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.cls", b"1" * 600), ("b.cls", b"2")])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tar: truncated or not a tar file"):
        list_tar_members(path, path.read_bytes())


def members(path: Path) -> list[tuple[str, bytes]]:
    content = path.read_bytes()
    places = list_tar_members(path, content)
    return [(index.name, content[index.offset : index.offset + index.num_bytes]) for index in places]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_all_kinds_are_read_alike(tmp_path: Path, kind: int) -> None:
    long = "folder/" * 12 + "a" * 60 + ".cls"
    files = [("plain.cls", b"1"), (long, b"two"), ("é.cls", b""), ("last.cls", b"x" * 512)]
    (tmp_path / "tree").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        tar.add(tmp_path / "tree", "folder")
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert members(tmp_path / "a.tar") == files
    plain = write_tar(tmp_path / "b.tar", files[:1] + files[3:])
    assert members(plain) == files[:1] + files[3:]


def test_names_of_cifar100_are_a_hundred_in_order() -> None:
    names = DATASETS["cifar100"].classes
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert np.array(names).dtype.kind == "U"


LABELS_cifar2 = [0, 3, 2, 2, 9, 0, 1, 2]


def write_cifar10(folder: Path) -> Path:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        data = (
            np.full((len(LABELS_cifar2), 3072), 10 * k, np.uint8)
            + np.arange(len(LABELS_cifar2), dtype=np.uint8)[:, None]
        )
        (inner / name).write_bytes(pickle.dumps({"data": data, "labels": LABELS_cifar2}))
    return inner


@pytest.mark.parametrize("subfolder", [".", "cifar10"])
def test_airplanes_and_birds_relabelled(tmp_path: Path, subfolder: str) -> None:
    write_cifar10(tmp_path / subfolder)
    data, whole = open_dataset("cifar2", tmp_path), open_dataset("cifar10", tmp_path)
    assert (data.name, data.classes, data.eval_split) == ("cifar2", ("airplane", "bird"), "test")
    for split, num in (("train", 5), ("test", 1)):
        result, every = data.splits[split], whole.splits[split]
        assert isinstance(result, TensorImageDataset)
        assert isinstance(every, TensorImageDataset)
        chosen = [i for i, label in enumerate(every.labels.tolist()) if label in (0, 2)]
        assert torch.equal(result.images, every.images[chosen])
        assert result.labels.tolist() == [0, 1, 1, 0, 1] * num
    assert data.preprocess.mean == (0.4915, 0.4823, 0.4468)
    assert data.preprocess.std == (0.2470, 0.2435, 0.2616)
    assert "Stevens" in DATASETS["cifar2"].reference


def test_other_orders_of_classes_and_a_validation_part(tmp_path: Path) -> None:
    inner = write_cifar10(tmp_path)
    names = ["bird", "x", "airplane", *(f"y{k}" for k in range(7))]
    (inner / "classes.txt").write_text("\n".join(names))
    data = open_dataset("cifar2", tmp_path, val_fraction=0.4)
    assert sorted(data.splits) == ["test", "train", "val"]
    assert data.splits["test"].labels.tolist() == [1, 0, 0, 1, 0]
    again = open_dataset("cifar2", tmp_path, split_record=data.split_record)
    assert again.fingerprint == data.fingerprint
