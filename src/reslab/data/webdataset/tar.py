"""WebDataset shards: tar files in which KEY.webp (png, jpg) stands beside KEY.cls, the label as text.

Looking through a shard once: where each picture lies, its label, its size, or why it cannot be read.
"""

import hashlib
import json
import mmap
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.cache import cache_dir, read_json, write_json
from reslab.data.decode import check_picture, read_picture
from reslab.data.image_datasets import Spot, TensorImages
from reslab.spec.errors import invalid

PICTURES = ("webp", "png", "jpg", "jpeg")
Content = bytes | mmap.mmap


def read_shards(paths: list[Path], channels: int = 3) -> TensorImages:
    """The pictures of shards, in order, as one tensor (N, channels, H, W); all must have one size.

    Raises ValueError naming shard and key where a picture or a label is missing, broken or of another size.
    """
    pictures, labels, names = [], [], []
    for path in paths:
        content = path.read_bytes()
        for sample in shard_samples(path, content):
            start, name = sample.picture.start, f"{path}: {sample.key}.{sample.ending}"
            picture = content[start : start + sample.picture.num_bytes]
            pictures.append(read_picture(picture, channels, name, sample.ending).numpy())
            labels.append(_label(sample.label, f"{path}: {sample.key}.cls"))
            names.append(sample.key)
    return TensorImages(stack_pictures(pictures, names), torch.tensor(labels, dtype=torch.int64), tuple(names))


def stack_pictures(pictures: list[np.ndarray], names: list[str]) -> Tensor:
    """Pictures (C, H, W) as one tensor (N, C, H, W); raises ValueError naming the first of another size."""
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape != pictures[0].shape:
            height, width = pictures[0].shape[1:]
            raise invalid(
                f"pictures of one size, {height}x{width} as {names[0]}",
                f"{name} of {picture.shape[1]}x{picture.shape[2]}",
            )
    return torch.from_numpy(np.stack(pictures))


@dataclass(frozen=True)
class Place:
    """Where a file lies in a tar: its first byte and its length in bytes."""

    name: str
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Sample:
    """A sample of a shard: its key, its picture's place and ending, the text of its label."""

    key: str
    picture: Place
    ending: str
    label: str


def shard_samples(path: Path, content: Content) -> list[Sample]:
    """The samples of a tar in the order in which their keys first appear; a label is KEY.cls, or "label" in KEY.json.

    Raises ValueError naming shard and key where a picture or a label is missing, or the tar is cut short.
    """
    samples: dict[str, dict[str, Place]] = {}
    for place in shard_places(path, content):
        folder, _, file = place.name.rpartition("/")
        if file.startswith("."):  # what macOS and archivers leave behind
            continue
        stem, _, ending = file.partition(".")
        samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[ending.lower()] = place
    return [_sample(path, content, key, parts) for key, parts in samples.items()]


def _sample(path: Path, content: Content, key: str, parts: dict[str, Place]) -> Sample:
    ending = next((ending for ending in PICTURES if ending in parts), "")
    label = next((name for name in ("cls", "json") if name in parts), "")
    if not ending or not label:
        wanted = f"{path}: {key} with a picture (.{', .'.join(PICTURES)}) and a label (.cls)"
        raise invalid(wanted, ", ".join(f".{found}" for found in parts))
    place = parts[label]
    text = bytes(content[place.start : place.start + place.num_bytes])
    return Sample(key, parts[ending], ending, _label_text(text, label == "json", f"{path}: {key}.{label}"))


def _label_text(text: bytes, is_json: bool, name: str) -> str:
    try:
        found = json.loads(text)["label"] if is_json else text.decode()
    except (ValueError, KeyError, TypeError):
        raise invalid(f"{name} with a label{' under the key label' * is_json}", repr(text[:20])) from None
    if not str(found).strip():
        raise invalid(f"{name} with a label", "nothing in it")
    return str(found).strip()


def _label(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise invalid(f"{name} as a whole number", repr(text.encode()[:20])) from None


def shard_places(path: Path, content: Content) -> list[Place]:
    """The files in a tar's bytes; raises ValueError naming it where it is cut short or no tar.

    Plain headers are read here, ten times as fast as by `tarfile` (a CIFAR-10 has 120,000), which takes the rest.
    """
    plain = _plain_places(content)
    return _any_places(content, path) if plain is None else plain


def _plain_places(content: Content) -> list[Place] | None:
    """The members of a tar of plain files with short names; None where it is anything else."""
    found, place = [], 0
    while place + 512 <= len(content) and content[place]:
        header = content[place : place + 512]
        size = header[124:136].strip(b"\0 ")
        if (
            header[156:157] not in (b"0", b"\0")
            or header[345]
            or not size.isdigit()
            or header[257:262] not in (b"ustar", b"\0" * 5)
        ):
            return None
        start, length = place + 512, int(size, 8)
        if start + length > len(content):
            return None
        found.append(Place(header[:100].rstrip(b"\0").decode(errors="replace"), start, length))
        place = start + (length + 511) // 512 * 512
    # A tar ends with blocks of zeros; without them it was cut short between two files.
    return found if found and place < len(content) else None


def _any_places(content: Content, path: Path) -> list[Place]:
    found = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    found.append(Place(member.name, member.offset_data, member.size))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: cut short or not a tar file ({error}); fetch it again") from error
    whole = all(place.start + place.num_bytes <= len(content) for place in found)
    if sum(place.num_bytes for place in found) == 0 or not whole or content[-512:] != b"\0" * 512:
        raise ValueError(f"{path}: cut short or not a tar file ({len(content)} bytes); fetch it again")
    return found


_FORMAT = "1"


@dataclass(frozen=True)
class Indexed:
    """A sample of a shard: where its picture lies, its label as text, height and width, or why it cannot be read."""

    spot: Spot
    label: str
    height: int = 0
    width: int = 0
    error: str = ""

    @classmethod
    def of(cls, shard: Path | str, entry: list[Any]) -> "Indexed":
        """What `look_through` found of a sample of a shard, a path or a URL."""
        key, start, num_bytes, ending, label, height, width, error = entry
        return cls(Spot(shard, key, start, num_bytes, ending), label, height, width, error)


def index_shard(path: Path) -> list[Indexed]:
    """The samples of a shard in their order, every picture decoded once, in threads; nothing is kept in memory.

    The index is remembered in the cache while the shard keeps its size and modification time.
    Raises ValueError naming the shard where it is cut short, no tar, or a sample lacks its picture or label.
    """
    stat = path.stat()
    state = [_FORMAT, stat.st_size, stat.st_mtime_ns]
    memory = cache_dir() / "shards" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    known = read_json(memory)
    if known.get("state") != state:
        known = {"state": state, "shard": str(path.resolve()), "samples": look_through(path)}
        write_json(memory, known)
    return [Indexed.of(path, entry) for entry in known["samples"]]


def look_through(path: Path) -> list[list[Any]]:
    """[key, first byte, bytes, ending, label, height, width, error] of each sample of a shard (see `index_shard`)."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: cut short or not a tar file (0 bytes); fetch it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, ThreadPoolExecutor() as pool:
            samples = shard_samples(path, content)
            return list(pool.map(lambda sample: _entry(content, sample), samples))


def _entry(content: Content, sample: Sample) -> list[Any]:
    place = sample.picture
    known = [sample.key, place.start, place.num_bytes, sample.ending, sample.label]
    try:
        return [*known, *check_picture(content[place.start : place.start + place.num_bytes], sample.key), ""]
    except ValueError as error:
        return [*known, 0, 0, str(error).removeprefix(f"{sample.key}: ")]
