"""Every kind of image is read to the pixels a viewer shows; an error names what is not an image.

Ordinary JPEG images come out of the quick decoder with Pillow's pixels; all others are left to Pillow.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reslab.data import jpeg
from reslab.data.decode import pil_to_tensor, read_image
from reslab.data.jpeg import decode_jpeg, simple_jpeg_size

COLOURS = np.array(
    [[[200, 30, 40], [10, 220, 60], [5, 6, 250]], [[0, 0, 0], [255, 255, 255], [90, 91, 92]]], dtype=np.uint8
)


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def grey_of(pixels: np.ndarray) -> np.ndarray:
    return np.floor(pixels @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(int)


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "tiff", "ppm"])
def test_plain_colour_is_exact(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLOURS).save(path, **({"lossless": True} if ending == "webp" else {}))
    result = read_image(path)
    assert result.dtype == torch.uint8
    assert torch.equal(result, chw(COLOURS))
    assert torch.equal(read_image(path.read_bytes()), chw(COLOURS))
    path.rename(tmp_path / "a.jpg")  # an extension that lies
    assert torch.equal(read_image(tmp_path / "a.jpg"), chw(COLOURS))


def test_colour_to_grey_is_itu_601(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    result = read_image(tmp_path / "a.png", channels=1)
    assert result.shape == (1, 2, 3)
    assert np.abs(result[0].numpy().astype(int) - grey_of(COLOURS)).max() <= 1


def test_grey_to_colour_repeats(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(grey).expand(3, 3, 4))
    assert torch.equal(read_image(tmp_path / "a.png", channels=1)[0], torch.from_numpy(grey))


ORIENTED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), chw(ORIENTED[orientation](COLOURS)))


def test_damaged_exif_gives_no_warning(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert torch.equal(read_image(tmp_path / "a.png"), chw(COLOURS))


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, ending: str) -> None:
    deep = np.array([[0, 128, 129, 257], [300, 32896, 65406, 65535]], dtype=np.uint16)
    expected = torch.tensor([[0, 0, 1, 1], [1, 128, 254, 255]], dtype=torch.uint8)
    path = tmp_path / f"a.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 4 2 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    assert torch.equal(read_image(path, channels=1)[0], expected)
    assert torch.equal(read_image(path), expected.expand(3, 2, 4))


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    deep = (COLOURS.astype(np.uint16) << 8) + 37
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    assert torch.equal(read_image(tmp_path / "a.png"), chw(COLOURS))


def test_32_bits_are_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff.*white is undefined"):
        read_image(tmp_path / "a.tiff")


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (3, 2))
    image.putpalette(COLOURS.reshape(-1).tolist())
    image.putdata(range(6))
    image.save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), chw(COLOURS))


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.floor(colour * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    alpha = np.array([[0, 255, 128], [0, 64, 1]], dtype=np.uint8)
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), chw(on_white(COLOURS, alpha)))
    grey = np.array([[0, 100, 200]], dtype=np.uint8)
    Image.fromarray(np.dstack([grey, alpha[:1]])).save(tmp_path / "la.png")
    expected = on_white(grey[..., None], alpha[:1])[..., 0]
    assert torch.equal(read_image(tmp_path / "la.png", channels=1)[0], torch.from_numpy(expected))


def test_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 2))
    image.putpalette(COLOURS.reshape(-1).tolist())
    image.putdata(range(6))
    image.save(tmp_path / "one.png", transparency=0)
    image.save(tmp_path / "many.png", transparency=bytes([255, 128, 255, 0, 255, 255]))
    expected = COLOURS.copy()
    expected[0, 0] = 255
    assert torch.equal(read_image(tmp_path / "one.png"), chw(expected))
    alpha = np.array([[255, 128, 255], [0, 255, 255]])
    assert torch.equal(read_image(tmp_path / "many.png"), chw(on_white(COLOURS, alpha)))


def test_transparent_colour_is_white(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", transparency=(200, 30, 40))
    expected = COLOURS.copy()
    expected[0, 0] = 255
    assert torch.equal(read_image(tmp_path / "a.png"), chw(expected))


def test_cmyk_becomes_colour(tmp_path: Path) -> None:
    inks = np.zeros((8, 8, 4), dtype=np.uint8)
    inks[..., 0] = 255  # cyan alone
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tiff")
    assert torch.equal(read_image(tmp_path / "a.tiff")[:, 0, 0], torch.tensor([0, 255, 255], dtype=torch.uint8))
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100)
    result = read_image(tmp_path / "a.jpg")[:, 4, 4].tolist()
    assert np.abs(np.array(result) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    options = {"lossless": True} if ending == "webp" else {}
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second], duration=50, **options)
    assert torch.equal(read_image(tmp_path / f"a.{ending}"), chw(np.array(first)))


def test_one_bit_image_scales_to_0_and_255(tmp_path: Path) -> None:
    bits = np.array([[True, False, True]])
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", channels=1).tolist() == [[[255, 0, 255]]]


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "bmp", "tiff"])
def test_cut_short(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{ending}: "):
        read_image(path)


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no image")
    (tmp_path / "folder.jpg").mkdir()
    expected = {"empty.jpg": "0 bytes", "text.jpg": "not an image", "gone.jpg": "no such file", "folder.jpg": "folder"}
    for name, reason in expected.items():
        with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
            read_image(tmp_path / name)


def test_channels_are_one_or_three(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="nearest valid: 3"):
        read_image(tmp_path / "a.png", channels=4)


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
            return pil_to_tensor(image, channels)


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
        result = decode_jpeg(content)
        assert result is not None
        assert torch.equal(result, by_pillow(content))
        assert result.stride() == by_pillow(content).stride()


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
def test_fast_jpeg_decoder_equals_pillow_on_unusual_jpegs(content: bytes) -> None:
    result = decode_jpeg(content)
    assert result is not None
    assert torch.equal(result, by_pillow(content))


GREY, CMYK = (Image.fromarray(pixels()).convert(mode) for mode in ("L", "CMYK"))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    "content",
    [written(GREY), written(CMYK), *(turned(k) for k in range(2, 9)), turned(6, ">"), written(xmp=XMP)],
    ids=["grey", "CMYK", *(f"turned {k}" for k in range(2, 9)), "turned, big-endian", "turned by XMP"],
)
def test_all_others_are_left_to_pillow(content: bytes) -> None:
    assert simple_jpeg_size(content) is None
    assert decode_jpeg(content) is None
    assert torch.equal(read_image(content), by_pillow(content))


def test_decode_jpeg_returns_none_for_other_formats_and_damage(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, "PNG")
    assert decode_jpeg(stream.getvalue()) is None
    assert decode_jpeg(b"") is None
    whole = written()
    for length in (2, 4, 25, 160, 400, len(whole) // 2, len(whole) - 20):
        assert decode_jpeg(whole[:length]) is None
        with pytest.raises(ValueError, match=r"truncated|known format|cannot be decoded"):
            read_image(whole[:length])
    path = tmp_path / "a.jpg"  # an ending that lies
    path.write_bytes(stream.getvalue())
    assert torch.equal(read_image(path).permute(1, 2, 0), torch.from_numpy(pixels()))


def test_random_bytes_in_the_head_do_no_harm() -> None:
    whole, rng = turned(1), np.random.default_rng(0)
    num_read = 0
    for _ in range(300):
        broken = bytearray(whole)
        for index in rng.integers(2, 200, 2):
            broken[index] = rng.integers(256)
        result = decode_jpeg(bytes(broken))
        if result is not None:
            num_read += 1
            assert torch.equal(result, by_pillow(bytes(broken)))
    assert num_read > 100


def test_without_the_decoder_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.JPG").write_bytes(written())
    quick = read_image(tmp_path / "a.JPG")
    monkeypatch.setattr(jpeg, "has_torchvision_decoder", lambda: False)
    assert decode_jpeg(written()) is None
    assert torch.equal(read_image(tmp_path / "a.JPG"), quick)


def test_one_channel_is_pillow_s_grey() -> None:
    assert torch.equal(read_image(written(), channels=1), by_pillow(written(), 1))
