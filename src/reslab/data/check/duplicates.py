"""Pictures that are there twice: the same pixels, or nearly the same look.

One look at a picture: can it be read, how large is it, what is its fingerprint, and what does it look like.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image
from torch import Tensor

from reslab.data.decode import orientation, read_picture
from reslab.data.image_datasets import FileImages, Images, ShardImages

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


MOST_BITS = 6
LEAST_CORRELATION = 0.97
LEAST_SIDE = 16
_BANDS = MOST_BITS + 1


@dataclass(frozen=True)
class Twins:
    """Pictures, by their places among the looks, that belong together; `bits` the largest distance that links two.

    `exact` where the pixels are the same, all of them.
    """

    places: tuple[int, ...]
    exact: bool
    bits: int = 0


def find_exact(looks: Sequence[Look]) -> list[Twins]:
    """Groups of pictures with the same pixels, whatever the files are called and however they are packed."""
    by_digest: dict[bytes, list[int]] = {}
    for place, look in enumerate(looks):
        if not look.error:
            by_digest.setdefault(look.pixels, []).append(place)
    return [Twins(tuple(places), True) for places in by_digest.values() if len(places) > 1]


def find_near(looks: Sequence[Look]) -> list[Twins]:
    """Groups linked by looking nearly the same, without being all the same pixels.

    Two pictures look nearly the same where their difference hashes differ in at most MOST_BITS of 64 bits and their
    sketches (8x8 colours) correlate by LEAST_CORRELATION or more. Pictures of one colour are left out, and those under
    LEAST_SIDE pixels, of which many look alike.
    """
    exact = {place: twins.places[0] for twins in find_exact(looks) for place in twins.places}
    firsts = [i for i, look in enumerate(looks) if _has_a_look(look) and exact.get(i, i) == i]
    groups = _linked(_links(firsts, looks))
    whole: dict[int, list[int]] = {}
    for place, first in exact.items():
        whole.setdefault(first, []).append(place)
    return [
        Twins(tuple(sorted(place for first in group for place in whole.get(first, [first]))), False, bits)
        for group, bits in groups
    ]


def _links(places: Sequence[int], looks: Sequence[Look]) -> Iterator[tuple[int, int, int]]:
    """(place, place, bits between) of every two that look nearly the same."""
    hashes = np.array([looks[i].hash for i in places], dtype=np.uint64)
    sketches = _standardised([looks[i].sketch for i in places])
    for one, other in _close_pairs(hashes):
        alike = (sketches[one] * sketches[other]).sum(1) >= LEAST_CORRELATION
        bits = np.bitwise_count(hashes[one] ^ hashes[other])
        for a, b, distance in zip(one[alike], other[alike], bits[alike], strict=True):
            yield places[a], places[b], int(distance)


def _linked(links: Iterable[tuple[int, int, int]]) -> list[tuple[list[int], int]]:
    """The groups that links tie together, each sorted, with its largest distance; by their first places."""
    leader: dict[int, int] = {}
    known = list(links)
    for a, b, _ in known:
        leader[_top(leader, b)] = _top(leader, a)
    groups: dict[int, tuple[set[int], int]] = {}
    for a, b, distance in known:
        members, most = groups.setdefault(_top(leader, a), (set(), 0))
        groups[_top(leader, a)] = (members | {a, b}, max(most, distance))
    return sorted((sorted(members), most) for members, most in groups.values())


def _has_a_look(look: Look) -> bool:
    return not look.error and not look.blank and min(look.height, look.width) >= LEAST_SIDE


def _standardised(sketches: Sequence[np.ndarray | None]) -> np.ndarray:
    """(N, values), each row of mean 0 and length 1, so that a product of two is their correlation."""
    if not sketches:
        return np.zeros((0, 1), np.float32)
    rows = np.stack([sketch for sketch in sketches if sketch is not None]).reshape(len(sketches), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _close_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (one, other) of places whose hashes differ in at most MOST_BITS; a pair may come more than once.

    Of MOST_BITS + 1 bands of the bits two such hashes share at least one, so only hashes that do are compared.
    """
    edges = np.linspace(0, 64, _BANDS + 1).astype(np.uint64)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> low) & mask
        order = np.argsort(band, kind="stable")
        edges_of_runs = [0, *(np.flatnonzero(np.diff(band[order])) + 1).tolist(), len(order)]
        for start, stop in pairwise(edges_of_runs):
            yield from _close_within(hashes, order[start:stop])


def _close_within(hashes: np.ndarray, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for k in range(len(places) - 1):
        rest = places[k + 1 :]
        close = rest[np.bitwise_count(hashes[rest] ^ hashes[places[k]]) <= MOST_BITS]
        if len(close):
            yield np.full(len(close), places[k]), close


def _top(leader: dict[int, int], place: int) -> int:
    while leader.setdefault(place, place) != place:
        leader[place] = leader[leader[place]]
        place = leader[place]
    return place
