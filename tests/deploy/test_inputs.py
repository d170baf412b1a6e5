"""The inputs of a prediction, and the order of their images."""

import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from reslab.data.decode import read_image
from reslab.deploy.inputs import InputItem, list_inputs


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
    found = tmp_path / "photos"
    (found / "deep").mkdir(parents=True)
    for place, name in enumerate(("b.png", "a.png", "deep/c.png")):
        (found / name).write_bytes(png(place))
    (found / "notes.txt").write_text("no picture")
    return found


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
    path = shard(tmp_path / "x.tar", k1_png=png(1), k1_cls=b"3", deep__k2_jpg=png(2), k3_txt=b"no picture")
    items = list_inputs(path)
    assert [item.path for item in items] == [f"{path}/k1.png", f"{path}/deep/k2.jpg"]
    assert torch.equal(items[0].decode(3), read_image(png(1)))
    assert torch.equal(items[1].decode(3), read_image(png(2)))
    shard(tmp_path / "w.tar", k9_png=png(9))
    assert names(list_inputs(tmp_path)) == ["k9.png", "k1.png", "k2.jpg"]  # a folder of shards, by their names


def test_a_table_of_paths(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("label; Path\ncat;photos/b.png\n\ndog;photos/deep/c.png\n", encoding="utf-8-sig")
    items = list_inputs(table)
    assert names(items) == ["b.png", "c.png"]
    assert torch.equal(items[0].decode(3), read_image(png(0)))


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_a_picture_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, png(5))
    (item,) = list_inputs("-")
    assert item.path == "-"
    assert torch.equal(item.decode(3), read_image(png(5)))


def test_paths_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, f"{folder}/b.png\n\n{folder}/deep\n".encode())
    assert names(list_inputs("-")) == ["b.png", "c.png"]


def test_a_broken_picture_on_standard_input_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (png(5)[:50], b"\xff\xfe\x00\x81"):
        stdin(monkeypatch, content)
        (item,) = list_inputs("-")
        with pytest.raises(ValueError, match="-: "):
            item.decode(3)


def test_mistakes_are_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.csv").write_text("kind,label\na,1\n")
    (tmp_path / "bare.csv").write_text("path\n")
    (tmp_path / "empty.tar").touch()
    (tmp_path / "cut.tar").write_bytes(shard(tmp_path / "whole.tar", k_png=png(1)).read_bytes()[:700])
    shard(tmp_path / "text.tar", k_txt=b"words")
    for name, said in (
        ("no.csv", "a column of images"),
        ("bare.csv", "none below"),
        ("empty.tar", "empty"),
        ("cut.tar", "truncated"),
        ("text.tar", "1 other files"),
        ("*.jpg", "files that match"),
    ):
        with pytest.raises(ValueError, match=said):
            list_inputs(tmp_path / name)
    for content, said in ((b"", "nothing"), (b"-\n", "standard input itself")):
        stdin(monkeypatch, content)
        with pytest.raises(ValueError, match=said):
            list_inputs("-")
