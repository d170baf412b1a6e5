"""Mutated images of every format: reading raises nothing but ImageError, in bounded time and memory.

`RESLAB_SOAK_IMAGES` sets the number of mutants (100,000), `RESLAB_SOAK_SECONDS` the time after which no more are made,
`RESLAB_SOAK_SEED` the draw of the mutations (0).
"""

import os
import random
import resource
import time
from collections import Counter

import numpy as np
import pytest
from image_bytes import encoded, make_png, make_tiff, png_chunk, png_of_values
from PIL import Image

from reslab.data.decode import decode_image
from reslab.data.decode_limits import BYTES_PER_PIXEL, DecodeLimits, ImageError

NUM_MUTANTS = int(os.environ.get("RESLAB_SOAK_IMAGES", "100000"))
MAX_SECONDS = float(os.environ.get("RESLAB_SOAK_SECONDS", "1800"))
SEED = int(os.environ.get("RESLAB_SOAK_SEED", "0"))
LIMITS = DecodeLimits(max_pixels=4_000_000)
MAX_IMAGE_SECONDS = 5.0
# Above the interpreter with its libraries: the limit's memory, and what the allocator keeps of it.
MAX_GROWTH_BYTES = 3 * BYTES_PER_PIXEL * LIMITS.max_pixels + (200 << 20)


def make_seeds() -> dict[str, bytes]:
    """Return one small image per format and way of storing it."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    color = Image.fromarray(noise)
    alpha = Image.fromarray(np.dstack([noise, noise[..., 0]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = {
        "jpeg": encoded(color, "JPEG"),
        "jpeg progressive": encoded(color, "JPEG", progressive=True, exif=exif),
        "jpeg gray": encoded(color.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(color.convert("CMYK"), "JPEG"),
        "png": encoded(color, "PNG"),
        "png palette": encoded(color.quantize(16), "PNG", transparency=bytes(range(16))),
        "png alpha": encoded(alpha, "PNG"),
        "png 16": png_of_values(np.arange(800).reshape(20, 40) * 80, 16, 0, png_chunk(b"tRNS", b"\0\x50")),
        "png interlaced": make_png((8, 8), 8, 0, bytes(200), interlace=1),
        "apng": encoded(color, "PNG", save_all=True, append_images=[color.rotate(90), color]),
        "gif": encoded(color.quantize(64), "GIF", save_all=True, append_images=[color.quantize(8)], transparency=3),
        "webp": encoded(color, "WEBP"),
        "webp lossless": encoded(alpha, "WEBP", lossless=True),
        "webp frames": encoded(color, "WEBP", save_all=True, append_images=[color.rotate(180)]),
        "avif": encoded(alpha, "AVIF", speed=10),
        "jpeg 2000": encoded(color, "JPEG2000"),
        "bmp": encoded(color, "BMP"),
        "bmp palette": encoded(color.quantize(16), "BMP"),
        "tiff": encoded(color, "TIFF", exif=exif),
        "tiff lzw": encoded(alpha, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(color, "TIFF", compression="jpeg"),
        "tiff group 4": encoded(color.convert("1"), "TIFF", compression="group4"),
        "tiff 16": make_tiff(np.arange(800, dtype="<u2").reshape(20, 40) * 80, photometric=0, orientation=5),
        "qoi": encoded(color, "QOI"),
        "tga": encoded(alpha, "TGA", compression="tga_rle"),
        "ppm": encoded(color, "PPM"),
        "pgm text": b"P2 3 2 1000\n0 1 500\n999 1000 7\n",
        "pbm": encoded(color.convert("1"), "PPM"),
    }
    for content in seeds.values():
        decode_image(content)
    return seeds


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one to eight changes: bits, bytes, numbers, cuts, copies, and PNG checksums that fit."""
    mutant = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        index = min(draw.randrange(max(1, len(mutant))), draw.randrange(max(1, len(mutant))))
        kind = draw.randrange(7)
        if kind == 0:
            mutant[index : index + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            mutant[index : index + 1] = bytes([mutant[index] ^ 1 << draw.randrange(8)]) if mutant else b""
        elif kind == 2:
            mutant[index : index + 4] = draw.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\x10\0")
            )
        elif kind == 3:
            del mutant[index : index + draw.randrange(1, 64)]
        elif kind == 4:
            mutant[index:index] = mutant[index : index + draw.randrange(1, 200)] * draw.choice((1, 2, 50))
        elif kind == 5:
            del mutant[max(1, draw.randrange(len(mutant) + 1)) :]
        else:
            mutant[index : index + 8] = draw.randbytes(8)
    return _with_checksums(bytes(mutant)) if content.startswith(b"\x89PNG") and draw.random() < 0.7 else bytes(mutant)


def _with_checksums(content: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of their content, so that mutants get beyond the first check."""
    result, offset = content[:8], 8
    while offset + 12 <= len(content):
        length = int.from_bytes(content[offset : offset + 4])
        if offset + 12 + length > len(content):
            break
        result += png_chunk(content[offset + 4 : offset + 8], content[offset + 8 : offset + 8 + length])
        offset += 12 + length
    return result + content[offset:]


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_mutants_are_read_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    seeds, draw = make_seeds(), random.Random(SEED)
    read: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    failures: list[str] = []
    slowest: tuple[float, str] = (0.0, "")
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start, names = time.monotonic(), list(seeds)
    for number in range(NUM_MUTANTS):
        if time.monotonic() - start > MAX_SECONDS:
            break
        name = names[number % len(names)]
        mutant = mutate(seeds[name], draw)
        began = time.process_time()  # other processes may take the processor
        try:
            decode_image(mutant, draw.choice((1, 3)), limits=LIMITS, collect_warning=number % 2 == 0)
            read[name] += 1
        except ImageError as error:
            refused[f"{error.kind} {error.limit}".strip()] += 1
        except BaseException as error:
            failures.append(f"mutant {number} of {name}: {type(error).__name__}: {error}")
            if isinstance(error, KeyboardInterrupt):
                raise
        slowest = max(slowest, (time.process_time() - began, f"mutant {number} of {name}"))
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak_before
    with capsys.disabled():
        total = sum(read.values()) + sum(refused.values()) + len(failures)
        print(f"\n{total:,} mutants of {len(seeds)} images in {time.monotonic() - start:.0f} s:")
        print(f"  read {sum(read.values()):,}, refused {dict(refused)}, failed {len(failures)}")
        print(
            f"  slowest {slowest[0]:.2f} s of processor time ({slowest[1]}), resident memory grew by {growth >> 20} MiB"
        )
    assert failures == []
    assert slowest[0] < MAX_IMAGE_SECONDS, slowest
    assert growth < MAX_GROWTH_BYTES
