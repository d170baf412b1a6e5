"""Hashes of files: whole up to a size, by evenly spaced blocks above it; what the cache says of files that changed."""

import hashlib
import io
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reslab.data import cache
from reslab.data.cache import content_digest, file_digests, is_sampled
from reslab.data.registry import open_dataset

GIGABYTE = 1 << 30


def write_sparse(path: Path, num_bytes: int, **contents: bytes) -> Path:
    """Write a file that takes no room; `at_N` is what it holds at byte N."""
    with path.open("wb") as file:
        file.truncate(num_bytes)
        for key, content in contents.items():
            file.seek(int(key.removeprefix("at_")))
            file.write(content)
    return path


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two files are read in 1024 blocks of 4 KiB each."""
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SAMPLED_BYTES", 8 << 20)
    monkeypatch.setattr(cache, "_MAX_BLOCK_BYTES", 1 << 12)


def test_a_file_up_to_the_limit_is_hashed_whole(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a", 3 << 20, at_2000000=b"content")
    assert file_digests([path]) == [hashlib.sha256(path.read_bytes()).hexdigest()[:16]]
    assert not is_sampled(content_digest(b""))


@pytest.mark.usefixtures("small_sample")
def test_files_beyond_the_limit_are_hashed_by_blocks_in_bounded_time(tmp_path: Path) -> None:
    paths = [write_sparse(tmp_path / name, 20 * GIGABYTE) for name in "ab"]
    started = time.process_time()
    first, second = file_digests(paths)
    assert time.process_time() - started < 5  # to read 40 GiB takes far longer
    assert first == second
    assert is_sampled(first)
    sha = hashlib.sha256(f"{20 * GIGABYTE}:".encode() + bytes(1024 << 12)).hexdigest()[:16]
    assert first == f"1024x4096:{sha}"


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("offset", [0, 20 * GIGABYTE - 1, (20 * GIGABYTE - 4096) * 500 // 1023])
def test_a_change_within_a_block_is_noticed(offset: int, tmp_path: Path) -> None:
    other = write_sparse(tmp_path / "b", 20 * GIGABYTE)
    before = file_digests([write_sparse(tmp_path / "a", 20 * GIGABYTE), other])
    after = file_digests([write_sparse(tmp_path / "a", 20 * GIGABYTE, **{f"at_{offset}": b"x"}), other])
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.usefixtures("small_sample")
def test_the_size_counts_and_small_files_among_large_ones_are_hashed_whole(tmp_path: Path) -> None:
    large, longer = write_sparse(tmp_path / "a", 40 * GIGABYTE), write_sparse(tmp_path / "b", 40 * GIGABYTE + 1)
    small = write_sparse(tmp_path / "c", 1000, at_500=b"x")
    digests = file_digests([large, longer, small])
    assert digests[0] != digests[1]
    assert digests[2] == content_digest(small.read_bytes())


def test_a_cached_digest_counts_only_for_the_same_sample(
    tmp_path: Path, small_sample: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sparse(tmp_path / "a", 10 << 20)
    (whole,) = file_digests([path])
    monkeypatch.setattr(cache, "MAX_HASHED_BYTES", 9 << 20)
    (sampled,) = file_digests([path])
    monkeypatch.setattr(cache, "SAMPLED_BYTES", 4 << 20)
    (coarser,) = file_digests([path])
    monkeypatch.setattr(cache, "MAX_HASHED_BYTES", 10 << 20)
    assert (sampled.split(":")[0], coarser.split(":")[0]) == ("2048x4096", "1024x4096")
    assert file_digests([path]) == [whole]


def test_the_fingerprint_of_a_sampled_dataset_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    for i in range(8):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 80), (i, 0, 0)).save(path)

    def fingerprint() -> str:
        return open_dataset(tmp_path / "images", val_fraction=0.25).fingerprint

    whole = fingerprint()
    monkeypatch.setattr(cache, "MAX_HASHED_BYTES", 19_000)
    monkeypatch.setattr(cache, "SAMPLED_BYTES", 10_000)
    sampled = fingerprint()
    assert len(whole) == 16
    assert sampled.endswith("-sampled")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    assert fingerprint() not in (sampled, whole)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of the same size and modification time, as an archive or `cp -p` does."""
    stat = path.stat()
    assert len(content) == stat.st_size
    path.with_suffix(".new").write_bytes(content)
    os.utime(path.with_suffix(".new"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    path.with_suffix(".new").replace(path)


def bmp_bytes(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "BMP")
    return buffer.getvalue()


def shard_bytes(labels: str, level: int) -> bytes:
    """Return a shard of images of one gray level; tar files of few images are all as long."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i, label in enumerate(labels):
            for extension, content in (("bmp", bmp_bytes(np.full((4, 4), level))), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{i}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_boxes_of_masks_are_those_of_the_files_that_are_there(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((8, 12))
    mask[:3, :5] = 1
    for i in range(4):
        (tmp_path / "images" / f"{i}.bmp").write_bytes(bmp_bytes(np.zeros((8, 12))))
        (tmp_path / "masks" / f"{i}.bmp").write_bytes(bmp_bytes(mask))

    def boxes() -> list[float]:
        data = open_dataset(tmp_path, task="detection", mask_values="instances")
        target: dict[str, Any] = data.split("train")[0][1]
        return list(target["boxes"][0].tolist())

    assert boxes() == [0, 0, 5, 3]
    for i in range(4):
        replace_file(tmp_path / "masks" / f"{i}.bmp", bmp_bytes(mask[::-1, ::-1]))
    assert boxes() == [7, 5, 12, 8]


def test_shards_have_the_labels_and_images_of_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MIN_SECONDS_TO_CACHE", 0)
    path = tmp_path / "train-0.tar"
    path.write_bytes(shard_bytes("0011", 10))
    first = open_dataset(tmp_path, val_fraction=0.5)
    replace_file(path, shard_bytes("0101", 99))
    second = open_dataset(tmp_path, split_record=first.split_record)
    images = {split: second.split(split) for split in ("train", "val")}
    labels = {part.name(i)[-5]: int(part.labels[i]) for part in images.values() for i in range(len(part))}
    assert labels == {"0": 0, "1": 1, "2": 0, "3": 1}
    assert {int(part.load_image(i).max()) for part in images.values() for i in range(len(part))} == {99}
