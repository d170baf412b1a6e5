"""Shards by URL, from a local server: their contents, how they stream, and that a batch is a function of its step."""

import io
import sys
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback import Web, serving
from PIL import Image
from torch import Tensor

from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import ShardImageDataset
from reslab.data.loader import TrainLoader, eval_loader
from reslab.data.registry import open_dataset
from reslab.data.webdataset import http as urls
from reslab.data.webdataset.dataset import list_url_shards
from reslab.data.webdataset.remote import url_root

NUM_SHARDS, NUM_EACH = 4, 6
NUM = NUM_SHARDS * NUM_EACH
WORDS = "random-resized-crop(16) flip"


def write_shard(path: Path, keys: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i in keys:
            image = io.BytesIO()
            pixels = np.random.default_rng(i).integers(0, 256, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, "png")
            for name, content in ((f"{i:03}.png", image.getvalue()), (f"{i:03}.cls", str(i % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Four training shards of six images and one of validation, on a server."""
    monkeypatch.setattr(urls, "_RETRY_SECONDS", 0.0)
    urls._block.cache_clear()
    folder = tmp_path / "served"
    for k in range(NUM_SHARDS):
        write_shard(folder / "set" / f"train-{k:03}.tar", range(k * NUM_EACH, (k + 1) * NUM_EACH))
    write_shard(folder / "set" / "val-000.tar", range(100, 105))
    with serving(folder) as web:
        yield web


def opened(web: Web, names: str = "{train-{000..003},val-000}.tar", **options: Any) -> DatasetSplits:
    return open_dataset(f"{web.url}/set/{names}", **options)


def steps(data: DatasetSplits, first: int, count: int, workers: int = 0, **options: Any) -> list[tuple[Tensor, ...]]:
    batches = TrainLoader(data.split("train"), 4, WORDS, data.preprocess, 3, "cpu", workers, **options)
    return list(islice(batches.iter_from(first), count))


def same(one: list[tuple[Tensor, ...]], other: list[tuple[Tensor, ...]]) -> bool:
    pairs = [(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_url_dataset_equals_the_folder(web: Web) -> None:
    data, folder = opened(web), open_dataset(web.folder / "set")
    assert data.describe() == folder.describe() == "set: 24 train, 5 val, 2 classes"
    assert data.fingerprint == folder.fingerprint
    assert data.preprocess == folder.preprocess
    for split in ("train", "val"):
        images, expected = data.split(split), folder.split(split)
        assert isinstance(images, ShardImageDataset)
        assert images.is_remote
        assert torch.equal(images.labels, expected.labels)
        assert [images.name(i) for i in range(len(images))] == [expected.name(i) for i in range(len(images))]
        assert torch.equal(images.preview(2), expected.preview(2))


def test_evaluation_is_that_of_the_folder(web: Web) -> None:
    data, folder = opened(web), open_dataset(web.folder / "set")
    pairs = [list(eval_loader(one.split("val"), 2, one.preprocess, "cpu")) for one in (data, folder)]
    assert same(*pairs)


def test_shards_are_indexed_once(web: Web) -> None:
    opened(web)
    web.requests.clear()
    opened(web)
    whole = [path for path, expected in web.requests if path.endswith(".tar")]
    assert len(whole) == 5  # each asked for its version
    write_shard(web.folder / "set" / "val-000.tar", range(200, 203))
    assert len(opened(web).split("val")) == 3


def test_class_names_are_read_from_a_file_in_the_folder_of_the_shards(web: Web) -> None:
    (web.folder / "set" / "classes.txt").write_text("ant\nbee\n")
    assert opened(web).classes == ("ant", "bee")


def test_an_epoch_has_every_sample_once(web: Web) -> None:
    data = opened(web)
    for epoch in range(2):
        indices = torch.cat([result[2] for result in steps(data, 6 * epoch, 6)])
        assert sorted(indices.tolist()) == list(range(NUM))
    first, second = (torch.cat([result[2] for result in steps(data, at, 6)]).tolist() for at in (0, 6))
    assert first != second
    shards = [index // NUM_EACH for index in first]
    assert first != sorted(first)
    assert len(set(shards)) == NUM_SHARDS


def test_pixels_and_labels_are_those_of_the_sample(web: Web) -> None:
    data = opened(web)
    batches = TrainLoader(data.split("train"), 4, "center-crop(64)", data.preprocess, 3, "cpu")
    whole = list(
        eval_loader(data.split("train"), NUM, type(data.preprocess)(3, "center-crop(64)", *_scale(data)), "cpu")
    )
    for x, y, indices in islice(batches.iter_from(0), 6):
        assert torch.equal(x, whole[0][0][indices])
        assert torch.equal(y, whole[0][1][indices])


def _scale(data: DatasetSplits) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return data.preprocess.mean, data.preprocess.std


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_from_any_step_on_it_is_the_same(web: Web, workers: int) -> None:
    data = opened(web)
    whole = steps(data, 0, 14, workers)
    for first in (1, 5, 6, 8) if workers != 3 else (7,):
        assert same(steps(data, first, 14 - first, workers), whole[first:])


def test_ranks_share_the_shards(web: Web) -> None:
    data = opened(web)
    parts = [steps(data, 0, 6, rank=rank, world_size=2) for rank in range(2)]
    seen = [{int(index) for _, _, indices in part for index in indices} for part in parts]
    assert all(len(x) == 2 for part in parts for x, _, _ in part)
    assert seen[0] | seen[1] == set(range(NUM))
    assert not seen[0] & seen[1]
    assert same(steps(data, 3, 3, rank=1, world_size=2), parts[1][3:])


def test_a_worker_whose_shards_are_few_begins_them_again_with_other_crops(web: Web) -> None:
    write_shard(web.folder / "set" / "train-003.tar", range(18, 19))
    data = opened(web)  # 19 samples: four steps, two a worker; one of them may have seven samples for eight
    result = [(int(index), x) for xs, _, indices in steps(data, 0, 8, 2) for index, x in zip(indices, xs, strict=True)]
    assert len(result) == 32
    epochs = [result[:16], result[16:]]
    for epoch in epochs:
        twice = [pair for pair in epoch if [index for index, _ in epoch].count(pair[0]) > 1]
        assert len(twice) in (0, 2)
        if twice:
            assert not torch.equal(twice[0][1], twice[1][1])


def test_held_out_samples_are_not_streamed(web: Web) -> None:
    data = opened(web, "train-{000..003}.tar", val_fraction=0.25)
    train = data.split("train")
    indices = torch.cat([result[2] for result in steps(data, 0, 4)]).tolist()
    assert (len(train), len(set(indices))) == (18, 16)
    assert max(indices) < 18
    again = opened(web, "train-{000..003}.tar", split_record=data.split_record)
    assert again.fingerprint == data.fingerprint


def test_a_broken_connection_changes_nothing(web: Web) -> None:
    data = opened(web)
    whole = steps(data, 0, 6)
    web.breaks = [20_000, 5_000, 40_000]
    assert same(steps(data, 0, 6), whole)
    assert web.breaks == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_shard_is_an_error(web: Web, workers: int) -> None:
    data = opened(web)
    write_shard(web.folder / "set" / "train-002.tar", range(12, 15))
    with pytest.raises(ValueError, match=r"the 6 images that http.*train-002.tar had .*; got: 3"):
        steps(data, 0, 12, workers)


def test_a_broken_image_is_listed_and_skipped(web: Web) -> None:
    path = web.folder / "set" / "train-001.tar"
    content = bytearray(path.read_bytes())
    content[512:1024] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)1 image in.*train-001\.tar/006\.png: not an image"):
        opened(web)
    data = opened(web, skip_bad_images=True)
    assert [name for name, _ in data.skipped_files] == ["train-001.tar/006.png"]
    seen = [data.split("train").name(int(index)) for result in steps(data, 0, 5) for index in result[2]]
    assert "train-001.tar/006.png" not in seen


def test_more_workers_than_shards_are_an_error(web: Web) -> None:
    with pytest.raises(ValueError, match=r"4 shards for 1 ranks of 5 workers; nearest valid: -j 4"):
        steps(opened(web), 0, 1, 5)
    with pytest.raises(ValueError, match="repeated augmentation or class-balanced"):
        steps(opened(web), 0, 1, num_repeats=2)


def test_names_of_shards() -> None:
    result = list_url_shards("https://a.org/x/{train,val}/{00..01}.tar?sig=1::https://a.org/x/test-0.tar")
    assert result == {
        "train": ["https://a.org/x/train/00.tar?sig=1", "https://a.org/x/train/01.tar?sig=1"],
        "val": ["https://a.org/x/val/00.tar?sig=1", "https://a.org/x/val/01.tar?sig=1"],
        "test": ["https://a.org/x/test-0.tar"],
    }
    assert url_root([url for part in result.values() for url in part]) == "https://a.org/x"
    assert list_url_shards("https://a.org/trains/{0..1}.tar") == {
        "train": [f"https://a.org/trains/{k}.tar" for k in (0, 1)]
    }
    assert url_root(["https://a.org/x/0.tar", "https://a.org/y/0.tar"]) == "https://a.org"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipe:curl https://a.org/x.tar", "https or http"),
        ("https://a.org/0.tar::pipe:cat x.tar", "https or http"),
        ("https://a.org/data.zip", "tar files"),
        ("https://a.org/{0,0}.tar", "0.tar twice"),
        ("https://a.org/{val-0,val-1}.tar", "only shards of val"),
        ("https://a.org/{val-0,more}.tar", "more.tar beside such names"),
    ],
)
def test_invalid_urls(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(text)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ValueError, match=r"webdataset for shards by URL.*reslab\[webdataset\]"):
        open_dataset("https://a.org/train-0.tar")
