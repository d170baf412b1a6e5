"""Images beyond a limit are refused before they are decoded, with the limit named; others take bounded memory."""

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_bytes import encoded, make_png, png_chunk
from PIL import Image

from reslab.data.decode import read_image
from reslab.data.decode_limits import (
    BYTES_PER_PIXEL,
    FRAME_MARKERS,
    DecodeLimits,
    ImageError,
    ImageErrorKind,
    PngHeader,
    bytes_per_pixel,
    has_all_png_data,
    jpeg_segments,
)
from reslab.data.image_formats import FORMAT_EXTENSIONS

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
WRITTEN = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI", "TGA")


def exceeded(content: bytes | Path, **limits: int) -> tuple[ImageErrorKind, str]:
    with pytest.raises(ImageError) as caught:
        read_image(content, limits=DecodeLimits(**limits))
    return caught.value.kind, caught.value.limit


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_limit_on_pixels_holds_in_every_format(kind: str) -> None:
    content = encoded(PIXELS, kind)
    needed = 48 * 64 * bytes_per_pixel(kind) // BYTES_PER_PIXEL
    assert read_image(content, limits=DecodeLimits(max_pixels=needed)).shape == (3, 48, 64)
    assert exceeded(content, max_pixels=needed - 2) == (ImageErrorKind.LIMIT, "max_pixels")


def test_pillow_s_own_limit_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "AVIF"):  # those of TIFF and WebP ask for it again
        assert read_image(encoded(PIXELS, kind)).shape == (3, 48, 64)


def many_scans(num_scans: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    whole = encoded(Image.new("RGB", size, "red"), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * num_scans + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted_over_the_whole_file() -> None:
    baseline = encoded(PIXELS, "JPEG")
    assert [segment.marker for segment in jpeg_segments(baseline)].count(0xDA) == 1
    thumbnail = encoded(PIXELS, "JPEG", exif=b"Exif\0\0" + baseline * 3)
    assert [segment.marker for segment in jpeg_segments(thumbnail)].count(0xDA) == 1  # not those of thumbnails
    ordinary = encoded(PIXELS, "JPEG", progressive=True)
    num_scans = [segment.marker for segment in jpeg_segments(ordinary)].count(0xDA)
    assert 5 < num_scans <= 12
    assert read_image(ordinary, limits=DecodeLimits(max_scans=num_scans)).shape == (3, 48, 64)
    assert exceeded(ordinary, max_scans=num_scans - 1) == (ImageErrorKind.LIMIT, "max_scans")
    assert exceeded(ordinary, max_scan_pixels=num_scans * 48 * 64 - 1) == (ImageErrorKind.LIMIT, "max_scan_pixels")
    assert exceeded(many_scans(101)) == (ImageErrorKind.LIMIT, "max_scans")


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    content = many_scans(14_000, (7000, 7000))
    start = time.perf_counter()
    assert exceeded(content)[0] is ImageErrorKind.LIMIT
    assert time.perf_counter() - start < 0.5


def test_the_largest_frame_of_a_jpeg_counts() -> None:
    whole = encoded(PIXELS, "JPEG")
    frame = next(segment for segment in jpeg_segments(whole) if segment.marker in FRAME_MARKERS)
    second = bytearray(whole[frame.start - 4 : frame.stop])
    second[5:9] = struct.pack(">HH", 60_000, 60_000)
    content = whole[: frame.stop] + bytes(second) + whole[frame.stop :]
    assert exceeded(content) == (ImageErrorKind.LIMIT, "max_pixels")


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 5}, {"exif": b"Exif\0\0"}])
def test_a_webp_is_refused_before_its_canvas_is_allocated(options: dict[str, object]) -> None:
    content = encoded(Image.new("RGBA", (301, 40), (9, 9, 9, 9)), "WEBP", **options)
    assert exceeded(content, max_pixels=301 * 40 * 2 - 2) == (ImageErrorKind.LIMIT, "max_pixels")
    assert read_image(content, limits=DecodeLimits(max_pixels=301 * 40 * 2)).shape == (3, 40, 301)


@pytest.mark.parametrize(
    "blocks",
    [
        b"",
        b"\0",
        b"\0\x21\xf9\x04\0\0\0\0\0" * 3,
        b"!\xf9\0\x01,\0",  # an extension whose first block is empty goes on
        b"!\xff\x0bNETSCAPE2.0\0\x01,\0",
        b"!\xfe\0",
        b"!\xfe\x01,\x02,,\0",
    ],
)
def test_a_gif_is_refused_before_its_canvas_is_allocated(blocks: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (64, 40)), "GIF")
    start = content.index(b",", 13 + 3 * (2 << (content[10] & 7)))
    small = content[:start] + blocks + content[start:]
    assert read_image(small).shape == (3, 40, 64)
    large = small[: start + len(blocks) + 5] + struct.pack("<HH", 60_000, 60_000) + small[start + len(blocks) + 9 :]
    monkeypatch.setattr(Image.core, "fill", None)
    assert exceeded(large) == (ImageErrorKind.LIMIT, "max_pixels")


def test_bytes_between_the_blocks_of_a_gif_are_counted() -> None:
    content = encoded(Image.new("L", (64, 40)), "GIF")
    start = 13 + 3 * (2 << (content[10] & 7))
    assert exceeded(content[:start] + bytes(100_001) + content[start:]) == (ImageErrorKind.LIMIT, "max_chunks")


def test_frames_and_chunks_are_counted() -> None:
    frames = [Image.fromarray(np.roll(PIXELS, i, 0)) for i in range(5)]
    content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert exceeded(content, max_frames=4) == (ImageErrorKind.LIMIT, "max_frames")
    assert read_image(content, limits=DecodeLimits(max_frames=5)).shape == (3, 48, 64)
    text = make_png((8, 8), 8, 0, bytes(72), before=png_chunk(b"tEXt", b"a\0b") * 20)
    assert exceeded(text, max_chunks=20) == (ImageErrorKind.LIMIT, "max_chunks")
    assert read_image(text, limits=DecodeLimits(max_chunks=22)).shape == (3, 8, 8)


def test_the_size_of_a_file_is_limited(tmp_path: Path) -> None:
    content = encoded(PIXELS, "PNG")
    assert exceeded(content, max_file_bytes=len(content) - 1) == (ImageErrorKind.LIMIT, "max_file_bytes")
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)  # a file of a terabyte that takes no space
    assert exceeded(tmp_path / "a.png") == (ImageErrorKind.LIMIT, "max_file_bytes")


def test_only_the_formats_in_the_limits_are_read() -> None:
    content = encoded(PIXELS, "TIFF")
    with pytest.raises(ImageError, match="known format") as caught:
        read_image(content, limits=DecodeLimits(formats=("PNG", "JPEG")))
    assert caught.value.kind is ImageErrorKind.FORMAT
    with pytest.raises(ValueError, match="nearest: 'TIFF'"):
        DecodeLimits(formats=("TIF",))
    with pytest.raises(ValueError, match="max_scans of at least 1"):
        DecodeLimits(max_scans=0)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 9), (33, 2)])
def test_bytes_of_an_interlaced_png(size: tuple[int, int], bits: int) -> None:
    """The seven passes of Adam7, pixel by pixel, as the table of the PNG specification numbers them."""
    height, width = size
    table = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    passes = [[[] for _ in range(height)] for _ in range(7)]
    for y in range(height):
        for x in range(width):
            passes[int(table[y % 8][x % 8]) - 1][y].append(x)
    expected = sum(1 + -(-len(row) * bits // 8) for rows in passes for row in rows if row)
    header = PngHeader(width, height, bits, 0, True)
    assert header.num_data_bytes == expected
    for num_bytes, is_complete in ((expected, True), (expected - 1, False), (expected + 9, True)):
        file = io.BytesIO(make_png(size, bits, 0, bytes(num_bytes), interlace=1))
        assert has_all_png_data(file, header) == is_complete


def test_a_bomb_inside_a_small_png_is_not_inflated_beyond_its_pixels() -> None:
    stream = zlib.compress(bytes(200_000_000), 9)
    content = make_png((8, 8), 8, 0, b"")
    start = content.index(b"IDAT") - 4
    content = content[:start] + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")
    begin = time.perf_counter()
    assert read_image(content).sum() == 0
    assert time.perf_counter() - begin < 0.2


PEAKS = """
import ctypes, gc, sys
from pathlib import Path
from reslab.data.decode import decode_image

def resident(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024

for path in sys.argv[1:]:
    decode_image(Path(path).with_stem("small"))  # what a first image imports is no memory of an image
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    image = decode_image(path)
    print((resident("VmHWM") - before) / image.pixels[0].numel())
    del image
"""


def peaks_per_pixel(paths: list[Path]) -> list[float]:
    """Return the growth of the resident set while each image is decoded, at its peak, by the number of its pixels.

    In a process of its own: the heap of a process that has run other tests reuses or keeps any amount.
    """
    command = [sys.executable, "-c", PEAKS, *map(str, paths)]
    return [float(line) for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak")
def test_memory_is_bounded_after_every_conversion(tmp_path: Path) -> None:
    gradient = (np.arange(2000)[:, None] + np.arange(3000)[None]) // 20
    colors = np.stack([gradient % 256, gradient // 2 % 256, gradient // 3 % 256, gradient % 250], 2).astype(np.uint8)
    alpha, rotated = Image.fromarray(colors), Image.Exif()
    rotated[0x0112] = 6
    palette = Image.fromarray(colors[..., 0]).convert("P")
    cases = [
        ("a.png", alpha, {"compress_level": 1, "exif": rotated}),
        ("b.png", palette, {"compress_level": 1, "transparency": bytes(range(256))}),
        ("c.webp", alpha, {"method": 0}),
        ("d.jpg", alpha.convert("RGB"), {"exif": rotated}),
    ]
    for name, image, options in cases:
        (tmp_path / name[0]).mkdir()
        image.save(tmp_path / name[0] / name, **options)
        image.resize((8, 8)).save(tmp_path / name[0] / name.replace(name[0], "small", 1), **options)
    peaks = peaks_per_pixel([tmp_path / name[0] / name for name, _, _ in cases])
    kinds = ["PNG", "PNG", "WEBP", "JPEG"]
    assert [peak <= bytes_per_pixel(kind) * 1.2 for peak, kind in zip(peaks, kinds, strict=True)] == [True] * 4, peaks


def test_every_extension_belongs_to_one_format() -> None:
    extensions = [extension for names in FORMAT_EXTENSIONS.values() for extension in names]
    assert len(extensions) == len(set(extensions))
    Image.init()
    registered = Image.registered_extensions()
    mistaken = {e: registered[e] for kind, names in FORMAT_EXTENSIONS.items() for e in names if e in registered}
    assert all(
        mistaken[e] in (kind, "MPO", "DIB") for kind, names in FORMAT_EXTENSIONS.items() for e in names if e in mistaken
    )
