"""WebDataset shards: tar files in which KEY.webp (png, jpg) stands beside KEY.cls, the label as text."""

import json
import mmap
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reslab.data.decode import read_picture
from reslab.data.image_datasets import TensorImages
from reslab.spec.errors import refuse

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
            raise refuse(
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
        raise refuse(wanted, ", ".join(f".{found}" for found in parts))
    place = parts[label]
    text = bytes(content[place.start : place.start + place.num_bytes])
    return Sample(key, parts[ending], ending, _label_text(text, label == "json", f"{path}: {key}.{label}"))


def _label_text(text: bytes, is_json: bool, name: str) -> str:
    try:
        found = json.loads(text)["label"] if is_json else text.decode()
    except (ValueError, KeyError, TypeError):
        raise refuse(f"{name} with a label{' under the key label' * is_json}", repr(text[:20])) from None
    if not str(found).strip():
        raise refuse(f"{name} with a label", "nothing in it")
    return str(found).strip()


def _label(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise refuse(f"{name} as a whole number", repr(text.encode()[:20])) from None


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
