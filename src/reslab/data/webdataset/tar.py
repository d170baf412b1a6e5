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
from reslab.data.decode import check_image, read_image
from reslab.data.image_datasets import ImageLocation, TensorImageDataset
from reslab.spec.errors import invalid

TAR_IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
TarContent = bytes | mmap.mmap


def read_shards(paths: list[Path], channels: int = 3) -> TensorImageDataset:
    """The pictures of shards, in order, as one tensor (N, channels, H, W); all must have one size.

    Raises ValueError naming shard and key where a picture or a label is missing, broken or of another size.
    """
    images, labels, names = [], [], []
    for path in paths:
        content = path.read_bytes()
        for sample in list_tar_samples(path, content):
            offset, name = sample.image.offset, f"{path}: {sample.key}.{sample.extension}"
            image_bytes = content[offset : offset + sample.image.num_bytes]
            images.append(read_image(image_bytes, channels, name, sample.extension).numpy())
            labels.append(_parse_class_index(sample.label, f"{path}: {sample.key}.cls"))
            names.append(sample.key)
    return TensorImageDataset(stack_images(images, names), torch.tensor(labels, dtype=torch.int64), tuple(names))


def stack_images(images: list[np.ndarray], names: list[str]) -> Tensor:
    """Pictures (C, H, W) as one tensor (N, C, H, W); raises ValueError naming the first of another size."""
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            height, width = images[0].shape[1:]
            raise invalid(
                f"pictures of one size, {height}x{width} as {names[0]}",
                f"{name} of {image.shape[1]}x{image.shape[2]}",
            )
    return torch.from_numpy(np.stack(images))


@dataclass(frozen=True)
class TarMember:
    """Where a file lies in a tar: its first byte and its length in bytes."""

    name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class TarSample:
    """A sample of a shard: its key, its picture's place and ending, the text of its label."""

    key: str
    image: TarMember
    extension: str
    label: str


def list_tar_samples(path: Path, content: TarContent) -> list[TarSample]:
    """The samples of a tar in the order in which their keys first appear; a label is KEY.cls, or "label" in KEY.json.

    Raises ValueError naming shard and key where a picture or a label is missing, or the tar is cut short.
    """
    samples: dict[str, dict[str, TarMember]] = {}
    for member in list_tar_members(path, content):
        folder, _, file = member.name.rpartition("/")
        if file.startswith("."):  # what macOS and archivers leave behind
            continue
        stem, _, extension = file.partition(".")
        samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[extension.lower()] = member
    return [_make_sample(path, content, key, members) for key, members in samples.items()]


def _make_sample(path: Path, content: TarContent, key: str, members: dict[str, TarMember]) -> TarSample:
    extension = next((extension for extension in TAR_IMAGE_EXTENSIONS if extension in members), "")
    label_extension = next((name for name in ("cls", "json") if name in members), "")
    if not extension or not label_extension:
        required = f"{path}: {key} with a picture (.{', .'.join(TAR_IMAGE_EXTENSIONS)}) and a label (.cls)"
        raise invalid(required, ", ".join(f".{member_extension}" for member_extension in members))
    label_member = members[label_extension]
    text = bytes(content[label_member.offset : label_member.offset + label_member.num_bytes])
    return TarSample(
        key,
        members[extension],
        extension,
        _parse_label_text(text, label_extension == "json", f"{path}: {key}.{label_extension}"),
    )


def _parse_label_text(text: bytes, is_json: bool, name: str) -> str:
    try:
        label = json.loads(text)["label"] if is_json else text.decode()
    except (ValueError, KeyError, TypeError):
        raise invalid(f"{name} with a label{' under the key label' * is_json}", repr(text[:20])) from None
    if not str(label).strip():
        raise invalid(f"{name} with a label", "nothing in it")
    return str(label).strip()


def _parse_class_index(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise invalid(f"{name} as a whole number", repr(text.encode()[:20])) from None


def list_tar_members(path: Path, content: TarContent) -> list[TarMember]:
    """The files in a tar's bytes; raises ValueError naming it where it is cut short or no tar.

    Plain headers are read here, ten times as fast as by `tarfile` (a CIFAR-10 has 120,000), which takes the rest.
    """
    members = _list_plain_members(content)
    return _list_members_with_tarfile(content, path) if members is None else members


def _list_plain_members(content: TarContent) -> list[TarMember] | None:
    """The members of a tar of plain files with short names; None where it is anything else."""
    members, offset = [], 0
    while offset + 512 <= len(content) and content[offset]:
        header = content[offset : offset + 512]
        size = header[124:136].strip(b"\0 ")
        if (
            header[156:157] not in (b"0", b"\0")
            or header[345]
            or not size.isdigit()
            or header[257:262] not in (b"ustar", b"\0" * 5)
        ):
            return None
        data_offset, length = offset + 512, int(size, 8)
        if data_offset + length > len(content):
            return None
        members.append(TarMember(header[:100].rstrip(b"\0").decode(errors="replace"), data_offset, length))
        offset = data_offset + (length + 511) // 512 * 512
    # A tar ends with blocks of zeros; without them it was cut short between two files.
    return members if members and offset < len(content) else None


def _list_members_with_tarfile(content: TarContent, path: Path) -> list[TarMember]:
    members = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    members.append(TarMember(member.name, member.offset_data, member.size))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: cut short or not a tar file ({error}); fetch it again") from error
    is_complete = all(tar_member.offset + tar_member.num_bytes <= len(content) for tar_member in members)
    if sum(tar_member.num_bytes for tar_member in members) == 0 or not is_complete or content[-512:] != b"\0" * 512:
        raise ValueError(f"{path}: cut short or not a tar file ({len(content)} bytes); fetch it again")
    return members


_FORMAT = "1"


@dataclass(frozen=True)
class IndexedSample:
    """A sample of a shard: where its picture lies, its label as text, height and width, or why it cannot be read."""

    location: ImageLocation
    label: str
    height: int = 0
    width: int = 0
    error: str = ""

    @classmethod
    def from_entry(cls, shard: Path | str, entry: list[Any]) -> "IndexedSample":
        """What `look_through` found of a sample of a shard, a path or a URL."""
        key, offset, num_bytes, extension, label, height, width, error = entry
        return cls(ImageLocation(shard, key, offset, num_bytes, extension), label, height, width, error)


def index_shard(path: Path) -> list[IndexedSample]:
    """The samples of a shard in their order, every picture decoded once, in threads; nothing is kept in memory.

    The index is remembered in the cache while the shard keeps its size and modification time.
    Raises ValueError naming the shard where it is cut short, no tar, or a sample lacks its picture or label.
    """
    stat = path.stat()
    file_state = [_FORMAT, stat.st_size, stat.st_mtime_ns]
    cache_path = cache_dir() / "shards" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
    cached = read_json(cache_path)
    if cached.get("state") != file_state:
        cached = {"state": file_state, "shard": str(path.resolve()), "samples": scan_shard(path)}
        write_json(cache_path, cached)
    return [IndexedSample.from_entry(path, entry) for entry in cached["samples"]]


def scan_shard(path: Path) -> list[list[Any]]:
    """[key, first byte, bytes, ending, label, height, width, error] of each sample of a shard (see `index_shard`)."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: cut short or not a tar file (0 bytes); fetch it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, ThreadPoolExecutor() as pool:
            samples = list_tar_samples(path, content)
            return list(pool.map(lambda sample: _scan_sample(content, sample), samples))


def _scan_sample(content: TarContent, sample: TarSample) -> list[Any]:
    member = sample.image
    fields = [sample.key, member.offset, member.num_bytes, sample.extension, sample.label]
    try:
        return [*fields, *check_image(content[member.offset : member.offset + member.num_bytes], sample.key), ""]
    except ValueError as error:
        return [*fields, 0, 0, str(error).removeprefix(f"{sample.key}: ")]
