"""Ordinary JPEG pictures come out of the quick decoder with Pillow's pixels; all others are left to Pillow."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data import jpeg
from reslab.data.decode import picture_tensor, read_picture
from reslab.data.jpeg import decode_jpeg, is_ordinary


def pixels(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise, so that the chroma's way of being enlarged counts."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(height)[:, None, None] / 5 + np.arange(width)[None, :, None] / (3 + np.arange(3)))
    return (127 + 90 * waves + rng.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)


def written(image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(pixels())).save(stream, "JPEG", **options)
    return stream.getvalue()


def by_pillow(content: bytes, channels: int = 3) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow warns of an EXIF that is broken on purpose
        with Image.open(io.BytesIO(content)) as image:
            return picture_tensor(image, channels)


def turned(orientation: int, order: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112] = orientation
    exif[0x010F] = "maker of a camera"
    return written(exif=exif)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [10, 75, 98])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_pixels_are_pillow_s(subsampling: int, quality: int, progressive: bool) -> None:
    for seed, size in enumerate([(37, 53), (1, 1), (16, 16), (8, 200)]):
        content = written(
            Image.fromarray(pixels(*size, seed)), quality=quality, subsampling=subsampling, progressive=progressive
        )
        found = decode_jpeg(content)
        assert found is not None
        assert torch.equal(found, by_pillow(content))
        assert found.stride() == by_pillow(content).stride()


@pytest.mark.parametrize(
    "content",
    [
        written(keep_rgb=True),
        written(comment=b"words"),
        written(restart_marker_blocks=2),
        written(dpi=(300, 300), icc_profile=bytes(range(200))),
        turned(1),
        turned(1, ">"),
    ],
    ids=["stored as RGB", "comment", "restarts", "profile", "upright", "upright, big-endian"],
)
def test_so_are_those_of_less_usual_files(content: bytes) -> None:
    found = decode_jpeg(content)
    assert found is not None
    assert torch.equal(found, by_pillow(content))


GREY, CMYK = (Image.fromarray(pixels()).convert(mode) for mode in ("L", "CMYK"))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "content",
    [written(GREY), written(CMYK), *(turned(k) for k in range(2, 9)), turned(6, ">"), written(xmp=XMP)],
    ids=["grey", "CMYK", *(f"turned {k}" for k in range(2, 9)), "turned, big-endian", "turned by XMP"],
)
def test_all_others_are_left_to_pillow(content: bytes) -> None:
    assert not is_ordinary(content)
    assert decode_jpeg(content) is None
    assert torch.equal(read_picture(content), by_pillow(content))


def test_other_formats_and_damage_are_none_of_its_business(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, "PNG")
    assert decode_jpeg(stream.getvalue()) is None
    assert decode_jpeg(b"") is None
    whole = written()
    for length in (2, 4, 25, 160, 400, len(whole) // 2, len(whole) - 20):
        assert decode_jpeg(whole[:length]) is None
        with pytest.raises(ValueError, match=r"cut|known format|cannot be read"):
            read_picture(whole[:length])
    path = tmp_path / "a.jpg"  # an ending that lies
    path.write_bytes(stream.getvalue())
    assert torch.equal(read_picture(path).permute(1, 2, 0), torch.from_numpy(pixels()))


def test_random_bytes_in_the_head_do_no_harm() -> None:
    whole, rng = turned(1), np.random.default_rng(0)
    num_read = 0
    for _ in range(300):
        broken = bytearray(whole)
        for place in rng.integers(2, 200, 2):
            broken[place] = rng.integers(256)
        found = decode_jpeg(bytes(broken))
        if found is not None:
            num_read += 1
            assert torch.equal(found, by_pillow(bytes(broken)))
    assert num_read > 100


def test_a_picture_too_large_to_be_meant_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    content = written()
    assert is_ordinary(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 53 - 1)
    assert not is_ordinary(content)


def test_without_the_decoder_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.JPG").write_bytes(written())
    quick = read_picture(tmp_path / "a.JPG")
    monkeypatch.setattr(jpeg, "_there", lambda: False)
    assert decode_jpeg(written()) is None
    assert torch.equal(read_picture(tmp_path / "a.JPG"), quick)


def test_one_channel_is_pillow_s_grey() -> None:
    assert torch.equal(read_picture(written(), channels=1), by_pillow(written(), 1))
