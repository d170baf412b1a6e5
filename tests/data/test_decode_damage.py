"""Damaged images: files that other programs read, refuse or warn of are read, refused or reported alike."""

import io
import itertools
import os
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.io  # noqa: F401 - registers torch.ops.image
from image_bytes import encoded, make_png, make_tiff, png_chunk, png_of_values
from PIL import Image

from reslab.data import jpeg
from reslab.data.decode import decode_image, read_image
from reslab.data.decode_limits import ImageError, ImageErrorKind

NOISE = np.random.default_rng(0).integers(1, 256, (40, 24, 3), dtype=np.uint8)
UPRIGHT = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: np.rot90(np.fliplr(p), 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(np.fliplr(p), -1),
    8: lambda p: np.rot90(p, 1),
}


def kind_of(content: bytes) -> ImageErrorKind:
    with pytest.raises(ImageError) as caught:
        read_image(content)
    return caught.value.kind


def with_libpng(content: bytes) -> torch.Tensor:
    return torch.ops.image.decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0, False)


@pytest.mark.parametrize("level", [0, 6])
def test_a_png_with_any_wrong_bit_in_its_pixels_is_damaged(level: int) -> None:
    """As the specification demands (PNG, 13.2): a decoder must not show what a checksum rejects."""
    whole = encoded(NOISE, "PNG", compress_level=level)
    start, draw = whole.index(b"IDAT") + 4, np.random.default_rng(1)
    for index in draw.integers(start, len(whole) - 16, 40):
        broken = bytearray(whole)
        broken[index] ^= 1 << int(draw.integers(8))
        assert kind_of(bytes(broken)) is ImageErrorKind.DAMAGED


@pytest.mark.parametrize("interlace", [0, 1])
def test_a_png_with_fewer_rows_than_declared_is_damaged(interlace: int) -> None:
    """The checksums fit, and Pillow alone would leave the rest black."""
    full_bytes = 8 * 9 if not interlace else (1 + 1) + (1 + 1) + (1 + 2) + 2 * (1 + 2) + 2 * (1 + 4) + 4 * 5 + 4 * 9
    assert read_image(make_png((8, 8), 8, 0, bytes(full_bytes), interlace=interlace)).sum() == 0  # black throughout
    short = make_png((8, 8), 8, 0, bytes(full_bytes - 1), interlace=interlace)
    assert kind_of(short) is ImageErrorKind.DAMAGED


def test_a_png_whose_header_or_palette_is_damaged() -> None:
    whole = encoded(Image.fromarray(NOISE).quantize(16), "PNG")
    for kind in (b"IHDR", b"PLTE", b"IDAT"):
        broken = bytearray(whole)
        broken[whole.index(kind) + 5] ^= 1
        assert kind_of(bytes(broken)) is ImageErrorKind.DAMAGED
    remark = whole[:33] + png_chunk(b"tEXt", b"a\0b")[:-1] + b"?" + whole[33:]
    assert kind_of(remark) is ImageErrorKind.DAMAGED


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color_type", [0, 2, 4, 6])
def test_png_of_every_depth_is_read_as_libpng_reads_it(bits: int, color_type: int) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    if bits < 8 and color_type:
        pytest.skip("not a PNG")
    values = np.random.default_rng(bits).integers(0, 1 << bits, (9, 13, channels))
    content = png_of_values(values, bits, color_type)
    reference = with_libpng(content).to(torch.float64)
    if bits == 16:  # of color, Pillow gives the high byte
        reference = reference / 257 if color_type == 0 else (reference / 256).floor()
    if channels in (2, 4):
        alpha = reference[-1:] / 255
        reference = reference[:-1] * alpha + 255 * (1 - alpha)
    pixels = read_image(content).to(torch.float64)
    assert (pixels - reference).abs().max() <= 0.501
    assert pixels.shape == (3, 9, 13)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_gray_of_a_png_is_white(bits: int) -> None:
    """The value is given in the PNG's own bits; every other pixel stays."""
    top = (1 << bits) - 1
    values = np.array([[0, 1, top - 1, top], [top // 2, top // 3, 0, 1]])
    plain = read_image(png_of_values(values, bits, 0), 1)[0].numpy()
    for transparent in {0, 1, top - 1}:
        content = png_of_values(values, bits, 0, png_chunk(b"tRNS", struct.pack(">H", transparent)))
        expected = np.where(values == transparent, 255, plain)
        assert np.array_equal(read_image(content, 1)[0].numpy(), expected)
        assert np.array_equal(read_image(content).numpy(), np.stack([expected] * 3))
        assert decode_image(content).stored_channels == 4


@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_color_of_a_png_is_white(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, (4, 5, 3))
    transparent = png_chunk(b"tRNS", struct.pack(">HHH", *values[2, 3]))
    expected = read_image(png_of_values(values, bits, 2)).clone()
    expected[:, 2, 3] = 255
    assert torch.equal(read_image(png_of_values(values, bits, 2, transparent)), expected)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WebP", "AVIF", "JPEG"])
def test_each_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners = np.zeros((48, 32, 3), np.uint8)
    corners[:24, :16], corners[:24, 16:], corners[24:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    options = {"lossless": True} if kind == "WebP" else {"quality": 100} if kind in ("AVIF", "JPEG") else {}
    content = encoded(corners, kind, exif=exif, **options)
    decoded = decode_image(content)
    expected = torch.from_numpy(UPRIGHT[orientation](corners).copy()).permute(2, 0, 1)
    assert decoded.pixels.shape == expected.shape
    tolerance = 3 if kind in ("AVIF", "JPEG") else 0
    middles = (slice(None), slice(4, None, 8), slice(4, None, 8))
    difference = decoded.pixels[middles].int() - expected[middles].int()
    assert difference.abs().max() <= tolerance
    assert decoded.is_rotated == (orientation != 1)


@pytest.mark.parametrize("photometric", [0, 1])
def test_sixteen_bit_tiff_with_either_white(photometric: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (6, 7), dtype=np.uint16)
    pixels = read_image(make_tiff(values.astype("<u2"), photometric=photometric), 1)[0].numpy()
    bright = values if photometric else 65535 - values
    assert np.abs(pixels - bright / 257).max() <= 0.5
    orders = ("<", ">") if photometric else ("<",)
    for order, orientation in itertools.product(orders, UPRIGHT):
        content = make_tiff(values.astype(f"{order}u2"), photometric=photometric, orientation=orientation)
        assert np.array_equal(read_image(content, 1)[0].numpy(), UPRIGHT[orientation](pixels))


def test_eight_bit_tiff_with_white_as_zero() -> None:
    values = NOISE[..., 0]
    assert np.array_equal(read_image(make_tiff(values, photometric=0), 1)[0].numpy(), 255 - values)


@pytest.mark.parametrize(("kind", "sample_format", "words"), [("i2", 2, "signed 16-bit"), ("f4", 3, "32-bit floating")])
def test_pixels_without_a_white_are_refused_as_what_they_are(kind: str, sample_format: int, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_image(make_tiff(np.ones((4, 4), f"<{kind}"), sample_format=sample_format))
    assert caught.value.kind is ImageErrorKind.PIXELS


def damaged_jpeg(seed: int = 0, **options: object) -> bytes:
    """Return a JPEG with random bytes amid its pixels, which libjpeg decodes with a warning."""
    noise = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    whole = bytearray(encoded(noise, "JPEG", quality=90, **options))
    middle = len(whole) // 2
    whole[middle : middle + 60] = bytes(range(100, 160))
    return bytes(whole)


def test_warnings_of_the_jpeg_decoder_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    content = damaged_jpeg()
    assert decode_image(content, collect_warning=True).warning.startswith("Corrupt JPEG data: ")
    assert decode_image(content, 1, collect_warning=True).warning.startswith("Corrupt JPEG data: ")
    assert decode_image(encoded(NOISE, "JPEG"), collect_warning=True).warning == ""
    assert capfd.readouterr().err == ""


def test_each_of_many_threads_gets_the_warning_of_its_own_image(capfd: pytest.CaptureFixture[str]) -> None:
    """Text that others write to standard error meanwhile arrives."""
    contents = [damaged_jpeg(i) if i % 3 == 0 else encoded(NOISE, "JPEG", quality=90) for i in range(48)]
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.wait(0.001):
            os.write(2, f"line {number}\n".encode())
            number += 1
        os.write(2, f"end {number}\n".encode())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            warnings = list(pool.map(lambda content: decode_image(content, collect_warning=True).warning, contents))
    finally:
        stop.set()
        writer.join()
    assert [bool(warning) for warning in warnings] == [i % 3 == 0 for i in range(48)]
    jpeg._collector._drain()
    lines = capfd.readouterr().err.splitlines()
    (end,) = (line for line in lines if line.startswith("end "))
    lines.remove(end)
    # A write that is under way while standard error is restored arrives later than those after it.
    assert sorted(lines) == sorted(f"line {i}" for i in range(int(end.removeprefix("end "))))


def test_what_others_write_just_before_standard_error_is_restored_arrives(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = jpeg._WarningCollector()
    drain = collector._drain

    def drain_and_write() -> None:
        drain()
        if collector._num_running == 1:
            os.write(2, b"late\n")

    monkeypatch.setattr(collector, "_drain", drain_and_write)
    assert collector.run(lambda: None) == (None, "")
    assert capfd.readouterr().err == "late\n"
    collector.close()


def test_a_decoder_does_not_fail_where_standard_error_has_no_reader(capfd: pytest.CaptureFixture[str]) -> None:
    """Nobody reads what others write meanwhile; the next image is decoded all the same."""
    collector = jpeg._WarningCollector()
    saved, (reader, broken) = os.dup(2), os.pipe()
    os.close(reader)
    os.dup2(broken, 2)
    try:
        collector.run(lambda: os.write(2, b"lost\n") and None)
        assert collector._num_running == 0
        assert os.fstat(2).st_ino == os.fstat(broken).st_ino
        collector.close()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(broken)


def test_a_file_that_is_not_regular_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def test_no_other_program_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(ImageError, match="known format"):
        read_image(tmp_path / "a.png")


def test_an_error_survives_a_process_boundary() -> None:
    import pickle

    error = ImageError("a.png: too large", ImageErrorKind.LIMIT, "max_pixels")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind, again.limit) == ("a.png: too large", ImageErrorKind.LIMIT, "max_pixels")


def test_damage_in_the_compressed_stream_alone(tmp_path: Path) -> None:
    """A checksum that fits a stream that does not inflate: the writer was broken."""
    head = png_of_values(NOISE, 8, 2)
    start = head.index(b"IDAT")
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in NOISE))
    bad = head[: start - 4] + png_chunk(b"IDAT", stream[:400] + b"\xff" * 40 + stream[440:]) + png_chunk(b"IEND", b"")
    assert kind_of(bad) is ImageErrorKind.DAMAGED
    with pytest.raises(Exception, match=r".+"), Image.open(io.BytesIO(bad)) as image:
        image.load()
