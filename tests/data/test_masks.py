"""Mask files of every mode give the numbers that they store, and an encoding makes classes of them, exactly."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mask_files import disk
from PIL import Image

from reslab.data.decode_limits import ImageError
from reslab.data.mask_colors import VOID_COLOR
from reslab.data.masks import VOID, MaskEncoding, StoredMask, read_mask_size, read_stored_mask, stored_mask

NUMBERS = np.random.default_rng(0).integers(0, 4, (6, 9)).astype(np.uint8)
PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200]


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp", "m.gif"])
def test_a_palette_is_not_looked_up(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(NUMBERS)
    image.putpalette(PALETTE)
    stored = read_stored_mask(saved(tmp_path / name, image))
    assert np.array_equal(stored.values, NUMBERS)
    assert stored.palette is not None
    assert stored.palette[:4].reshape(-1).tolist() == PALETTE


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_bits(tmp_path: Path, bits: int) -> None:
    numbers = NUMBERS % (1 << bits)
    image = Image.fromarray(numbers)
    image.putpalette([9] * 3 * (1 << bits))
    path = saved(tmp_path / "m.png", image, bits=bits)
    assert path.read_bytes()[24] == bits
    assert np.array_equal(read_stored_mask(path).values, numbers)


def write_png(path: Path, rows: list[bytes], width: int, bits: int, color_type: int) -> Path:
    """Write a PNG of these rows, as Pillow writes none of 2 or 4 bits of gray, nor of 16 bits of color."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_of_few_bits_keeps_its_numbers(tmp_path: Path, bits: int) -> None:
    """Pillow reads 2 bits as 0, 85, 170, 255: the last would be void."""
    numbers = NUMBERS % (1 << bits)
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:].reshape(-1)).tobytes() for row in numbers]
    path = write_png(tmp_path / "m.png", rows, 9, bits, 0)
    assert np.array_equal(read_stored_mask(path).values, numbers)
    with Image.open(path) as image:
        assert np.array_equal(stored_mask(image).values, numbers)


@pytest.mark.parametrize(("color_type", "num_channels"), [(2, 3), (4, 2), (6, 4)])
def test_colors_of_16_bits_are_refused(tmp_path: Path, color_type: int, num_channels: int) -> None:
    """Pillow returns the high byte of each color, 0 for all numbers below 256."""
    values = np.repeat(NUMBERS[..., None].astype(">u2"), num_channels, 2)
    values[..., 3 if num_channels == 4 else 1] = 65535 if num_channels != 3 else 1
    path = write_png(tmp_path / "m.png", [row.tobytes() for row in values], 9, 16, color_type)
    required = "a mask of 8 bits per color, or of numbers alone; got: 16 bits per color"
    with pytest.raises(ImageError, match=f"m.png: required: {required}"):
        read_stored_mask(path)
    with Image.open(path) as image, pytest.raises(ImageError, match=required):
        stored_mask(image)


def test_other_modes_of_numbers(tmp_path: Path) -> None:
    deep = NUMBERS.astype(np.uint16) * 300
    assert np.array_equal(read_stored_mask(saved(tmp_path / "16.png", Image.fromarray(deep))).values, deep)
    wide = NUMBERS.astype(np.int32) * 70000
    assert np.array_equal(read_stored_mask(saved(tmp_path / "32.tif", Image.fromarray(wide))).values, wide)
    bits = Image.fromarray(NUMBERS > 1)
    stored = read_stored_mask(saved(tmp_path / "1.png", bits))
    assert bits.mode == "1"
    assert np.array_equal(stored.values, (NUMBERS > 1).astype(np.uint8))
    gray = Image.fromarray(np.repeat(NUMBERS[..., None], 3, 2))
    assert np.array_equal(read_stored_mask(saved(tmp_path / "rgb.png", gray)).values, NUMBERS)
    opaque = Image.fromarray(np.dstack((NUMBERS, NUMBERS, NUMBERS, np.full_like(NUMBERS, 255))))
    assert np.array_equal(read_stored_mask(saved(tmp_path / "rgba.png", opaque)).values, NUMBERS)


def test_the_size_is_read_from_the_header(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = saved(tmp_path / "m.png", Image.fromarray(NUMBERS), exif=exif)
    stored = read_stored_mask(path)
    assert np.array_equal(stored.values, np.rot90(NUMBERS, -1))
    assert read_mask_size(path) == (9, 6) == (stored.height, stored.width)
    assert read_mask_size(saved(tmp_path / "n.png", Image.fromarray(NUMBERS))) == (6, 9)


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("m.jpg", Image.fromarray(NUMBERS), "a mask in a lossless format such as PNG; got: JPEG"),
        ("m.tif", Image.fromarray(NUMBERS.astype(np.float32)), "mode F"),
        ("m.png", Image.new("LA", (3, 3)), "a mask without transparency; got: mode LA"),
        ("m.png", Image.new("RGBA", (3, 3)), "a mask without transparency; got: mode RGBA"),
    ],
)
def test_masks_that_are_none(tmp_path: Path, name: str, image: Image.Image, message: str) -> None:
    path = saved(tmp_path / name, image)
    with pytest.raises(ImageError, match=message) as caught:
        read_stored_mask(path)
    assert str(caught.value).startswith(str(path))


def test_damaged_masks_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", Image.fromarray(disk(200, 200) * 7))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"m\.png"):
        read_stored_mask(path, check_complete=True)
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"m\.png"):
        read_stored_mask(path)
    with pytest.raises(ImageError, match=r"missing\.png: No such file"):
        read_stored_mask(tmp_path / "missing.png")


def decoded(encoding: MaskEncoding, values: list[object], palette: list[object] | None = None) -> list[int]:
    dtype = np.uint8 if np.max(values) < 256 else np.uint16  # type: ignore[arg-type]
    colors = None if palette is None else np.array(palette, dtype=np.uint8)
    result: list[int] = encoding.decode(StoredMask(np.array([values], dtype=dtype), colors))[0].tolist()
    return result


def test_numbers_become_classes() -> None:
    assert decoded(MaskEncoding((0, 1, 2)), [2, 0, 1, 255]) == [2, 0, 1, VOID]
    assert decoded(MaskEncoding((0, 5, 17)), [17, 0, 5, 255]) == [2, 0, 1, VOID]
    assert decoded(MaskEncoding((0, 255), void_numbers=()), [255, 0]) == [1, 0]
    assert decoded(MaskEncoding((0, 1, 3), void_numbers=(2, 255)), [3, 2, 1]) == [2, VOID, 1]
    assert decoded(MaskEncoding((0, 300)), [300, 0, 255]) == [1, 0, VOID]
    assert decoded(MaskEncoding((0, 1), void_numbers=(), is_instances=True), [0, 3, 255, 900]) == [0, 1, 1, 1]


def test_colors_become_classes() -> None:
    encoding = MaskEncoding((0, 1), ((0, 0, 0), (200, 0, 10)))
    assert decoded(encoding, [[200, 0, 10], [0, 0, 0], VOID_COLOR]) == [1, 0, VOID]
    # The numbers of a palette stand for its colors, whatever they are.
    assert decoded(encoding, [3, 7, 1], [[9, 9, 9]] * 1 + [[0, 0, 0]] * 2 + [[200, 0, 10]] * 4 + [VOID_COLOR]) == [
        1,
        VOID,
        0,
    ]
    assert decoded(encoding, [1, 0]) == [1, 0]  # numbers without a palette
    every = np.stack(np.meshgrid([0, 1, 128, 255], [0, 1, 128, 255], [0, 1, 128, 255]), -1).reshape(-1, 3)
    colors = tuple((int(r), int(g), int(b)) for r, g, b in every)
    assert decoded(MaskEncoding(tuple(range(64)), colors), every.tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("encoding", "values", "message"),
    [
        (MaskEncoding((0, 1)), [0, 2, 9], "numbers of the 2 classes .0 to 1., or 255 for void; got: 2, 9"),
        (MaskEncoding((0, 5)), [0, 1], r"\(0, 5\), or 255 for void; got: 1"),
        (MaskEncoding((0, 255), void_numbers=()), [0, 254], r"\(0, 255\); got: 254"),
        (MaskEncoding((0, 1)), [0, 511], "got: 511"),
        (MaskEncoding((0, 1), ((0, 0, 0), (1, 1, 2))), [[1, 1, 2], [1, 2, 2]], "colors of classes; got: #010202"),
        (MaskEncoding((0, 1)), [[1, 1, 2], [1, 2, 2]], "no list gives colors; got: #010102, #010202"),
    ],
)
def test_values_of_no_class_are_listed(encoding: MaskEncoding, values: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoded(encoding, values)


def test_an_encoding_is_written_and_read() -> None:
    encoding = MaskEncoding((0, 2), ((0, 0, 0), (1, 2, 3)), (1, 255), ((9, 9, 9),), is_instances=True)
    assert MaskEncoding.from_dict(encoding.to_dict()) == encoding
