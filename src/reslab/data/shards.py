"""WebDataset shards: tar files in which KEY.webp (png, jpg) stands beside KEY.cls, the label as text."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reslab.data.decode import read_picture
from reslab.data.images import TensorImages
from reslab.spec.errors import refuse

_PICTURES = ("webp", "png", "jpg", "jpeg")


def read_shards(paths: list[Path], channels: int = 3) -> TensorImages:
    """The pictures of shards, in order, as one tensor (N, channels, H, W); all must have one size.

    Raises ValueError naming shard and key where a picture or a label is missing, broken or of another size.
    """
    pictures, labels, names = [], [], []
    for path in paths:
        for key, picture, ending, label in _samples(path):
            pictures.append(read_picture(picture, channels, f"{path}: {key}.{ending}", ending).numpy())
            labels.append(label)
            names.append(key)
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


def _samples(path: Path) -> Iterator[tuple[str, bytes, str, int]]:
    """(key, bytes of the picture, their ending, label) in the order in which the keys first appear."""
    samples: dict[str, dict[str, bytes]] = {}
    for name, content in members(path):
        folder, _, file = name.rpartition("/")
        stem, _, ending = file.partition(".")
        samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[ending.lower()] = content
    for key, parts in samples.items():
        ending = next((ending for ending in _PICTURES if ending in parts), "")
        if not ending or "cls" not in parts:
            wanted = f"{path}: {key} with a picture (.{', .'.join(_PICTURES)}) and a label (.cls)"
            raise refuse(wanted, ", ".join(f".{found}" for found in parts))
        yield key, parts[ending], ending, _label(parts["cls"], f"{path}: {key}.cls")


def _label(text: bytes, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise refuse(f"{name} as a whole number", repr(text[:20])) from None


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file in a tar; raises ValueError naming it where it is cut short or no tar.

    Plain headers are read here, ten times as fast as by `tarfile` (a CIFAR-10 has 120,000), which takes the rest.
    """
    content = path.read_bytes()
    plain = _plain_members(content)
    if plain is not None:
        return iter(plain)
    return iter(_any_members(content, path))


def _plain_members(content: bytes) -> list[tuple[str, bytes]] | None:
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
        found.append((header[:100].rstrip(b"\0").decode(errors="replace"), content[start : start + length]))
        place = start + (length + 511) // 512 * 512
    # A tar ends with blocks of zeros; without them it was cut short between two files.
    return found if found and place < len(content) else None


def _any_members(content: bytes, path: Path) -> list[tuple[str, bytes]]:
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    found.append((member.name, file.read()))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: cut short or not a tar file ({error}); fetch it again") from error
    if sum(len(part) for _, part in found) == 0 or not content.endswith(b"\0" * 512):
        raise ValueError(f"{path}: cut short or not a tar file ({len(content)} bytes); fetch it again")
    return found
