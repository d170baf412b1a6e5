"""Find identical and nearly identical images: read each once, then compare digests, hashes and thumbnails."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from reslab.data.decode import DecodedImage, decode_image
from reslab.data.image_datasets import FileImageDataset, ImageDataset, ShardImageDataset

HASH_SIZE = 8
THUMBNAIL_SIZE = 8


@dataclass(frozen=True, eq=False)
class ImageInfo:
    """The facts about an image from reading it once; `error` says why it cannot be read, `is_missing` that there is no
    such file.

    `channels` are those stored in the file, `digest` is of the decoded pixels, `dhash` the 64-bit difference hash,
    `thumbnail` the image in THUMBNAIL_SIZE x THUMBNAIL_SIZE colors, `warning` what the
    JPEG decoder warned of.
    """

    name: str
    error: str = ""
    height: int = 0
    width: int = 0
    channels: int = 0
    exif_rotated: bool = False
    warning: str = ""
    digest: bytes = b""
    dhash: int = 0
    thumbnail: np.ndarray | None = None
    is_missing: bool = False

    @property
    def is_blank(self) -> bool:
        """True if the image has, nearly, a single color."""
        return self.thumbnail is not None and float(self.thumbnail.std(axis=(0, 1)).max()) < 1.0


def inspect_images(dataset: ImageDataset) -> list[ImageInfo]:
    """Read every image of a dataset, in threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda i: _inspect_image(dataset, i), range(len(dataset))))


def _inspect_image(dataset: ImageDataset, i: int) -> ImageInfo:
    name = dataset.name(i)
    if not isinstance(dataset, FileImageDataset | ShardImageDataset):
        preview = dataset.preview(i)
        return _make_image_info(name, DecodedImage(preview, preview.shape[0]))
    try:
        content = dataset.read_bytes(i)
        image = decode_image(content, name=name, limits=dataset.limits, collect_warning=True)
    except FileNotFoundError:
        return ImageInfo(name, "no such file", is_missing=True)
    except (OSError, ValueError) as error:
        return ImageInfo(name, str(error).removeprefix(f"{name}: "))
    return _make_image_info(name, image)


def _make_image_info(name: str, decoded: DecodedImage) -> ImageInfo:
    pixels = decoded.pixels
    height, width = pixels.shape[1:]
    array = np.ascontiguousarray(pixels.numpy())
    digest = hashlib.blake2b(f"{pixels.shape[0]}x{height}x{width}".encode() + array.tobytes(), digest_size=16).digest()
    image = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
    thumbnail = np.asarray(_downscale(image.convert("RGB"), THUMBNAIL_SIZE, THUMBNAIL_SIZE), dtype=np.float32)
    return ImageInfo(
        name,
        height=height,
        width=width,
        channels=decoded.stored_channels,
        exif_rotated=decoded.is_rotated,
        warning=decoded.warning,
        digest=digest,
        dhash=difference_hash(image),
        thumbnail=thumbnail,
    )


def difference_hash(image: Image.Image) -> int:
    """Return 64 bits, row by row, highest bit first: is a pixel brighter than its right neighbor, in gray at 9 x 8?

    Krawetz 2013, "Kind of Like That". Scaling, recompression and changes of brightness or contrast keep (nearly) all
    bits; different images differ in about half of them.
    """
    gray = np.asarray(_downscale(image.convert("L"), HASH_SIZE + 1, HASH_SIZE), dtype=np.int16)
    bits = (gray[:, :-1] > gray[:, 1:]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _downscale(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


MAX_HASH_DISTANCE = 6
MIN_CORRELATION = 0.97
MIN_COMPARABLE_SIDE = 16
_NUM_BANDS = MAX_HASH_DISTANCE + 1


@dataclass(frozen=True)
class DuplicateGroup:
    """Indices of images that are identical (`is_exact`) or nearly so, with the largest hash distance that links two."""

    indices: tuple[int, ...]
    is_exact: bool
    max_distance: int = 0


def find_exact_duplicates(infos: Sequence[ImageInfo]) -> list[DuplicateGroup]:
    """Return the groups of images with the same pixels, whatever their file names and formats."""
    by_digest: dict[bytes, list[int]] = {}
    for index, info in enumerate(infos):
        if not info.error:
            by_digest.setdefault(info.digest, []).append(index)
    return [DuplicateGroup(tuple(indices), True) for indices in by_digest.values() if len(indices) > 1]


def find_near_duplicates(infos: Sequence[ImageInfo]) -> list[DuplicateGroup]:
    """Return the groups of images that are linked by near identity, without those whose pixels are all the same.

    Two images are nearly identical if their difference hashes differ in at most MAX_HASH_DISTANCE of 64 bits and their
    thumbnails correlate by MIN_CORRELATION or more. Blank images are left out, and images under MIN_COMPARABLE_SIDE
    pixels, many of which look alike.
    """
    first_of = {
        index: exact_group.indices[0] for exact_group in find_exact_duplicates(infos) for index in exact_group.indices
    }
    candidates = [i for i, info in enumerate(infos) if _is_comparable(info) and first_of.get(i, i) == i]
    groups = _connected_components(_find_links(candidates, infos))
    copies_of: dict[int, list[int]] = {}
    for index, first in first_of.items():
        copies_of.setdefault(first, []).append(index)
    return [
        DuplicateGroup(
            tuple(sorted(index for first in group for index in copies_of.get(first, [first]))), False, distance
        )
        for group, distance in groups
    ]


def _find_links(indices: Sequence[int], infos: Sequence[ImageInfo]) -> Iterator[tuple[int, int, int]]:
    """Yield (index, index, hash distance) of every nearly identical pair."""
    hashes = np.array([infos[i].dhash for i in indices], dtype=np.uint64)
    thumbnails = _standardize([infos[i].thumbnail for i in indices])
    for left, right in _close_pairs(hashes):
        is_similar = (thumbnails[left] * thumbnails[right]).sum(1) >= MIN_CORRELATION
        distances = np.bitwise_count(hashes[left] ^ hashes[right])
        for a, b, distance in zip(left[is_similar], right[is_similar], distances[is_similar], strict=True):
            yield indices[a], indices[b], int(distance)


def _connected_components(links: Iterable[tuple[int, int, int]]) -> list[tuple[list[int], int]]:
    """Return the connected components of the links, each sorted and with its largest distance (union-find)."""
    parent: dict[int, int] = {}
    link_list = list(links)
    for a, b, _ in link_list:
        parent[_find_root(parent, b)] = _find_root(parent, a)
    groups: dict[int, tuple[set[int], int]] = {}
    for a, b, distance in link_list:
        members, max_distance = groups.setdefault(_find_root(parent, a), (set(), 0))
        groups[_find_root(parent, a)] = (members | {a, b}, max(max_distance, distance))
    return sorted((sorted(members), max_distance) for members, max_distance in groups.values())


def _is_comparable(info: ImageInfo) -> bool:
    return not info.error and not info.is_blank and min(info.height, info.width) >= MIN_COMPARABLE_SIDE


def _standardize(thumbnails: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return thumbnails as rows of mean 0 and norm 1, so that the product of two rows is their correlation."""
    if not thumbnails:
        return np.zeros((0, 1), np.float32)
    rows = np.stack([thumbnail for thumbnail in thumbnails if thumbnail is not None]).reshape(len(thumbnails), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _close_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of indices whose hashes differ in at most MAX_HASH_DISTANCE bits; a pair may occur more than once.

    Pigeonhole: d differing bits leave at least one of d + 1 bands of the hash equal, so only hashes that share a band
    are compared, not all pairs.
    """
    edges = np.linspace(0, 64, _NUM_BANDS + 1).astype(np.uint64)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> low) & mask
        order = np.argsort(band, kind="stable")
        run_edges = [0, *(np.flatnonzero(np.diff(band[order])) + 1).tolist(), len(order)]
        for start, stop in pairwise(run_edges):
            yield from _close_pairs_in_run(hashes, order[start:stop])


def _close_pairs_in_run(hashes: np.ndarray, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for k in range(len(indices) - 1):
        others = indices[k + 1 :]
        close = others[np.bitwise_count(hashes[others] ^ hashes[indices[k]]) <= MAX_HASH_DISTANCE]
        if len(close):
            yield np.full(len(close), indices[k]), close


def _find_root(parent: dict[int, int], index: int) -> int:
    while parent.setdefault(index, index) != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
