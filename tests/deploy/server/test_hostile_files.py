"""Broken, huge and hostile files: each is rejected with its reason, and none above the limit is decoded."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import GifImagePlugin, Image

from reslab.data.decode import read_image
from reslab.data.decode_limits import ImageError
from reslab.deploy.inputs import InferenceTransform
from reslab.deploy.server.decoding import decode_image, server_limits
from reslab.spec.preprocess import Preprocess


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, body: bytes = b"") -> bytes:
    """Return a PNG whose header declares this size, whatever its content."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG whose frame declares this size."""
    whole = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    offset = whole.index(b"\xff\xc0")
    whole[offset + 5 : offset + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def gif_of(canvas: tuple[int, int], frame: tuple[int, int], num_frames: int = 1) -> bytes:
    """Return a GIF whose frames exceed its canvas, or with many frames."""
    whole = encoded(Image.new("L", (8, 8), 99), "GIF")
    start = whole.index(b",\0\0\0\0\x08\0\x08\0")
    one = b"," + struct.pack("<HHHH", 0, 0, *frame) + whole[start + 9 : -1]
    return whole[:6] + struct.pack("<HH", *canvas) + whole[10:start] + one * num_frames + b";"


def webp_of(width: int, height: int) -> bytes:
    """Return a WebP whose canvas declares this size."""
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x00\x00\x00\x00" + sizes
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_of_chunks(number: int) -> bytes:
    """Return a small PNG with many text chunks."""
    whole = png_of(8, 8, bytes(72))
    return whole[:33] + chunk(b"tEXt", b"a\0b") * number + whole[33:]


ZIP_BOMB = png_of(30_000, 30_000, bytes(900_000))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
TRUNCATED = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "PNG")[:900]

REFUSED = {
    "nothing": (b"", 422, "at least one image"),
    "text": (b"hello, I am an image", 415, "an image (JPEG"),
    "SVG": (SVG, 415, "an image (JPEG"),
    "a TIFF": (encoded(Image.new("L", (8, 8)), "TIFF"), 415, "an image (JPEG"),
    "a bomb of zeros as PNG": (ZIP_BOMB, 413, "1,000,000 pixels"),
    "a PNG of 4 GB a side": (png_of(2**31 - 1, 2**31 - 1), 413, "1,000,000 pixels"),
    "a PNG without pixels": (png_of(0, 8), 422, "at least 1x1 pixels"),
    "a JPEG of 65535x65535": (jpeg_of(65535, 65535), 413, "1,000,000 pixels"),
    "a WebP of 16383x16383": (webp_of(16383, 16383), 413, "500,000 pixels"),
    "a GIF of 65535x65535": (gif_of((65535, 65535), (1, 1)), 413, "1,000,000 pixels"),
    "a GIF with a frame beyond its canvas": (gif_of((1, 1), (65535, 65535)), 413, "1,000,000 pixels"),
    "a row of 1x100000": (png_of(100_000, 1, bytes(100_001)), 422, "64 times"),
    "a column of 100000x1": (png_of(1, 100_000, bytes(200_000)), 422, "64 times"),
    "a truncated PNG": (TRUNCATED, 422, "truncated"),
    "a PNG cut in its header": (TRUNCATED[:20], 422, "truncated"),
    "a JPEG that ends at once": (b"\xff\xd8\xff\xe0", 422, "cannot be decoded"),
    "a JPEG of padding": (b"\xff\xd8\xff" + b"\xff" * 500_000, 422, "cannot be decoded"),
    "a GIF of blocks": (
        b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"!\xf9" + b"\x01a" * 200_000,
        413,
        "20,000 blocks",
    ),
    "a PNG of very many chunks": (png_of_chunks(60_000), 413, "20,000 chunks"),
    "a BMP of nothing": (b"BM" + bytes(60), 422, "cannot be decoded"),
    "noise under a PNG's sign": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, 422, "cannot be decoded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_reason(client: TestClient, name: str) -> None:
    content, status, words = REFUSED[name]
    response = client.post("/v1/predict", content=content, headers={"Content-Type": "image/png"})
    assert (response.status_code, words in response.json()["error"]) == (status, True), response.text
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", ["a bomb of zeros as PNG", "a WebP of 16383x16383", "a GIF of 65535x65535"])
def test_a_bomb_is_refused_before_it_is_decoded(name: str) -> None:
    """No memory for its pixels is ever allocated."""
    content = REFUSED[name][0]
    tracemalloc.start()
    with pytest.raises(ImageError, match="pixels"):
        read_image(content, limits=server_limits(1_000_000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000


def test_of_a_gif_with_very_many_frames_only_the_first_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = gif_of((8, 8), (8, 8), 20_000)
    assert 500_000 < len(content) < 1 << 20

    def refuse(self: object, frame: int) -> None:
        raise AssertionError(frame)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "seek", refuse)
    transform = InferenceTransform(Preprocess(transform="", channels=1, mean=(0.5,), std=(0.5,)), (8, 8))
    assert decode_image(content, transform, 1_000_000).pixels.shape == (1, 8, 8)


KINDS = {
    "CMYK": encoded(Image.new("CMYK", (9, 9), (10, 200, 3, 4)), "JPEG"),
    "16 bits": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
    "1 bit": encoded(Image.new("1", (9, 9)), "PNG"),
    "a palette": encoded(Image.new("P", (9, 9)), "PNG"),
    "alpha": encoded(Image.new("LA", (9, 9)), "PNG"),
    "frames of GIF": encoded(Image.new("P", (9, 9)), "GIF", save_all=True, append_images=[Image.new("P", (9, 9), 7)]),
    "frames of WebP": encoded(
        Image.new("RGB", (9, 9)), "WebP", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")]
    ),
    "some chunks": png_of_chunks(500),
    "EXIF that is broken": encoded(Image.new("RGB", (9, 9)), "JPEG", exif=b"Exif\0\0" + bytes(range(256)) * 4),
    "EXIF that goes in circles": encoded(
        Image.new("RGB", (9, 9)),
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIII", 1, 0x8769, 4, 1, 8, 8),
    ),
    "more pixels than are declared": png_of(8, 8, bytes(50_000_000)),
}


@pytest.mark.parametrize("name", KINDS)
def test_odd_images_are_read(client: TestClient, name: str) -> None:
    response = client.post("/v1/predict", content=KINDS[name])
    assert response.status_code == 200, response.text


def test_a_damaged_jpeg_is_refused_or_read(client: TestClient) -> None:
    """A file with flipped bytes is decoded or rejected with a message, never a server error."""
    draw = np.random.default_rng(1)
    whole = encoded(Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)), "JPEG")
    for _ in range(60):
        broken = bytearray(whole)
        for index in draw.integers(3, len(broken), 8):
            broken[index] = draw.integers(256)
        response = client.post("/v1/predict", content=bytes(broken))
        assert response.status_code in (200, 413, 415, 422), response.text
