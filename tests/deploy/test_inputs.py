"""The inputs of a prediction, and the order of their images."""

import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data.decode import read_image
from reslab.deploy.inputs import InputItem, InputTypeError, list_inputs


def png(seed: int) -> bytes:
    """An image of 6x5 pixels as bytes."""
    pixels = torch.randint(256, (6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    held = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(held, "PNG")
    return held.getvalue()


def shard(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    (path / "deep").mkdir(parents=True)
    for index, name in enumerate(("b.png", "a.png", "deep/c.png")):
        (path / name).write_bytes(png(index))
    (path / "notes.txt").write_text("no image")
    return path


def names(items: list[InputItem]) -> list[str]:
    return [Path(item.path).name for item in items]


def test_files_folders_and_patterns(folder: Path) -> None:
    assert names(list_inputs(folder)) == ["a.png", "b.png", "c.png"]
    assert names(list_inputs([folder / "deep", folder / "b.png"])) == ["c.png", "b.png"]
    assert names(list_inputs(f"{folder}/*.png")) == ["a.png", "b.png"]
    assert names(list_inputs(f"{folder}/**/*.png")) == ["a.png", "b.png", "c.png"]
    assert names(list_inputs(folder / "gone.png")) == ["gone.png"]  # a row with its error, not the end


def test_a_file_that_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").write_bytes(png(0))
    assert list_inputs(tmp_path / "a[1].png") == [InputItem(str(tmp_path / "a[1].png"))]


def test_shards_with_labels_and_without(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", k1_png=png(1), k1_cls=b"3", deep__k2_jpg=png(2), k3_txt=b"no image")
    items = list_inputs(path)
    assert [item.path for item in items] == [f"{path}/k1.png", f"{path}/deep/k2.jpg"]
    assert torch.equal(items[0].decode(3).pixels, read_image(png(1)))
    assert torch.equal(items[1].decode(3).pixels, read_image(png(2)))
    shard(tmp_path / "w.tar", k9_png=png(9))
    assert names(list_inputs(tmp_path)) == ["k9.png", "k1.png", "k2.jpg"]  # a folder of shards, by their names


def test_a_table_of_paths(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("label; Path\ncat;photos/b.png\n\ndog;photos/deep/c.png\n", encoding="utf-8-sig")
    items = list_inputs(table)
    assert names(items) == ["b.png", "c.png"]
    assert torch.equal(items[0].decode(3).pixels, read_image(png(0)))


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_an_image_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, png(5))
    (item,) = list_inputs("-")
    assert item.path == "-"
    assert torch.equal(item.decode(3).pixels, read_image(png(5)))


def test_paths_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, f"{folder}/b.png\n\n{folder}/deep\n".encode())
    assert names(list_inputs("-")) == ["b.png", "c.png"]


def test_a_broken_image_on_standard_input_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (png(5)[:50], b"\xff\xfe\x00\x81"):
        stdin(monkeypatch, content)
        (item,) = list_inputs("-")
        with pytest.raises(ValueError, match="-: "):
            item.decode(3)


def test_mistakes_are_reported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.csv").write_text("kind,label\na,1\n")
    (tmp_path / "bare.csv").write_text("path\n")
    (tmp_path / "empty.tar").touch()
    (tmp_path / "cut.tar").write_bytes(shard(tmp_path / "whole.tar", k_png=png(1)).read_bytes()[:700])
    shard(tmp_path / "text.tar", k_txt=b"words")
    for name, message in (
        ("no.csv", "a column of images"),
        ("bare.csv", "none below"),
        ("empty.tar", "empty"),
        ("cut.tar", "truncated"),
        ("text.tar", "1 other files"),
        ("*.jpg", "files that match"),
    ):
        with pytest.raises(ValueError, match=message):
            list_inputs(tmp_path / name)
    for content, message in ((b"", "nothing"), (b"-\n", "standard input itself")):
        stdin(monkeypatch, content)
        with pytest.raises(ValueError, match=message):
            list_inputs("-")


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
CHW = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())


@pytest.mark.parametrize(
    "image",
    [PIXELS, PIXELS.transpose(2, 0, 1), CHW, CHW.permute(1, 2, 0), Image.fromarray(PIXELS), png],
    ids=["array HWC", "array CHW", "tensor CHW", "tensor HWC", "Pillow", "bytes"],
)
def test_images_in_memory(image: Any) -> None:
    expected = CHW if image is not png else read_image(png(1))
    image = png(1) if image is png else image
    (item,) = list_inputs(image)
    assert item.path == "#0"
    assert torch.equal(item.decode(3).pixels, expected)
    first, second = list_inputs([image, image])
    assert (first.path, second.path) == ("#0", "#1")
    assert torch.equal(second.decode(3).pixels, expected)


def test_gray_alpha_and_several_images_in_memory(folder: Path) -> None:
    gray = PIXELS[..., 0]
    for one in (gray, gray[..., None], gray[None], torch.from_numpy(gray.copy())[None]):
        assert torch.equal(list_inputs(one)[0].decode(1).pixels[0], torch.from_numpy(gray.copy()))
    batch = torch.stack([CHW, CHW.flip(1)])
    assert [item.path for item in list_inputs(batch)] == ["#0", "#1"]
    assert torch.equal(list_inputs(batch)[1].decode(3).pixels, CHW.flip(1))
    alpha = np.dstack([PIXELS, np.zeros_like(gray)])
    assert list_inputs(alpha)[0].decode(3).pixels.unique().tolist() == [255]  # transparent throughout
    assert names(list_inputs([folder / "deep", Image.fromarray(PIXELS)])) == ["c.png", "#1"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (5, "an?.* int"),
        ([5], "a int"),
        ({"a.png": 1}, "dict"),
        (PIXELS.astype(np.float32), "array of float32.*nearest"),
        (CHW.float() / 255, "tensor of torch.float32.*torch.uint8"),
        (PIXELS[..., :2], r"shape \(5, 6, 2\)"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), "shape"),
        (np.zeros((2, 2, 2, 2, 3), np.uint8), "shape"),
    ],
)
def test_what_is_no_image_is_a_type_error(image: Any, words: str) -> None:
    with pytest.raises(
        InputTypeError, match=f"paths, bytes of image files, Pillow images, and uint8.*{words}"
    ) as caught:
        list_inputs(image)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("url", ["https://example.org/cats/a.jpg?size=9", "http://example.org/x.tar", "s3://b/a.png"])
def test_a_url_is_reported_how_to_be_downloaded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"on this machine; got: the URL .*download it first.*curl -L -o "):
        list_inputs(url)
    stdin(monkeypatch, f"{url}\n".encode())
    with pytest.raises(ValueError, match="download it first"):
        list_inputs("-")
