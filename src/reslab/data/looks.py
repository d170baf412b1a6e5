"""One look at a picture: can it be read, how large is it, what is its fingerprint, and what does it look like."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from reslab.data.decode import orientation, read_picture
from reslab.data.image_datasets import FileImages, Images
from reslab.data.shard_images import ShardImages

HASH_SIDE = 8
SKETCH_SIDE = 8
KINDS = {
    "1": 1,
    "L": 1,
    "I": 1,
    "I;16": 1,
    "I;16B": 1,
    "F": 1,
    "LA": 2,
    "La": 2,
    "PA": 4,
    "RGBA": 4,
    "RGBa": 4,
    "CMYK": 4,
}


@dataclass(frozen=True, eq=False)
class Look:
    """What a look at a picture told; without `error` it was read whole.

    `pixels` is a digest of the decoded pixels, `hash` the 64-bit difference hash, `sketch` the picture in
    SKETCH_SIDE x SKETCH_SIDE colours; `channels` as stored in the file, `turned` whether EXIF turns it.
    """

    name: str
    error: str = ""
    height: int = 0
    width: int = 0
    channels: int = 0
    turned: bool = False
    pixels: bytes = b""
    hash: int = 0
    sketch: np.ndarray | None = None

    @property
    def blank(self) -> bool:
        """Whether the picture is of one colour, or as good as."""
        return self.sketch is not None and float(self.sketch.std(axis=(0, 1)).max()) < 1.0


def look_at(images: Images) -> list[Look]:
    """Every picture read once and whole, in threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda i: _look(images, i), range(len(images))))


def _look(images: Images, i: int) -> Look:
    name = images.name(i)
    if not isinstance(images, FileImages | ShardImages):
        raw = images.raw(i)
        return _seen(name, raw, raw.shape[0], False)
    try:
        content = images.read(i)
        pixels = read_picture(content, 3, name)
        with Image.open(io.BytesIO(content)) as picture:
            return _seen(name, pixels, _channels(picture), orientation(picture) != 1)
    except FileNotFoundError:
        return Look(name, "no such file")
    except (OSError, ValueError) as error:
        return Look(name, str(error).removeprefix(f"{name}: "))


def _channels(picture: Image.Image) -> int:
    if "transparency" in picture.info:
        return 4
    return KINDS.get(picture.mode, 3)


def _seen(name: str, pixels: Tensor, channels: int, turned: bool) -> Look:
    height, width = pixels.shape[1:]
    array = np.ascontiguousarray(pixels.numpy())
    digest = hashlib.blake2b(f"{pixels.shape[0]}x{height}x{width}".encode() + array.tobytes(), digest_size=16).digest()
    picture = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
    sketch = np.asarray(_shrunk(picture.convert("RGB"), SKETCH_SIDE, SKETCH_SIDE), dtype=np.float32)
    return Look(name, "", height, width, channels, turned, digest, difference_hash(picture), sketch)


def difference_hash(picture: Image.Image) -> int:
    """64 bits: in grey at 9 x 8 pixels, is each pixel brighter than its right neighbour? Row by row, first bit highest.

    Krawetz 2013, "Kind of Like That". It stays (nearly) the same under scaling, recompression and changes of
    brightness or contrast, and changes in about half of its bits from one picture to another.
    """
    grey = np.asarray(_shrunk(picture.convert("L"), HASH_SIDE + 1, HASH_SIDE), dtype=np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _shrunk(picture: Image.Image, width: int, height: int) -> Image.Image:
    return picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
