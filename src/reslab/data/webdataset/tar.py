"""WebDataset shards: tar files in which KEY.jpg (or another image extension) lies beside KEY.cls, the label as text.

The label may also be "label" in KEY.json, or the text of KEY.txt.

A shard is indexed once: where each image is, its label and size, or why it cannot be read. The cache keeps the index.
"""

import hashlib
import json
import mmap
import os
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reslab.data.cache import content_digest, file_state, read_json, write_json
from reslab.data.decode import decode_image, read_image
from reslab.data.decode_limits import limits_key
from reslab.data.image_datasets import ImageLocation, TensorImageDataset, stack_images
from reslab.data.image_formats import IMAGE_EXTENSIONS
from reslab.runtime.files import cache_dir
from reslab.spec.errors import invalid

_COMMON_EXTENSIONS = ("webp", "png", "jpg", "jpeg")
TAR_IMAGE_EXTENSIONS = (*_COMMON_EXTENSIONS, *(e[1:] for e in IMAGE_EXTENSIONS if e[1:] not in _COMMON_EXTENSIONS))
"""The extensions of a sample's image, without the dot; the first that a sample has is taken."""
TarContent = bytes | mmap.mmap
_CACHE_FORMAT = "4"
_BLOCK_BYTES = 512
_OCTAL = re.compile(rb"[0-7]+")
_MAX_LABEL_BYTES = {"cls": 1 << 12, "json": 1 << 22, "txt": 1 << 12}
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "decompress it: mv '{path}' '{path}.gz' && gunzip '{path}.gz'"),
    (b"\xfd7zXZ", "xz", "decompress it: mv '{path}' '{path}.xz' && unxz '{path}.xz'"),
    (b"BZh", "bzip2", "decompress it: mv '{path}' '{path}.bz2' && bunzip2 '{path}.bz2'"),
    (b"\x28\xb5\x2f\xfd", "zstandard", "decompress it with zstd -d"),
    (b"PK\x03\x04", "zip", "unpack it into a folder"),
)


def read_shards(paths: list[Path], channels: int = 3) -> TensorImageDataset:
    """Decode the images of shards, in order, into one tensor (N, channels, H, W); labels are class indices.

    Raises ValueError naming shard and key if an image or label is missing or broken, or sizes differ.
    """
    images, labels, names = [], [], []
    for path in paths:
        content = path.read_bytes()
        for sample in list_tar_samples(path, content):
            offset, name = sample.image.offset, f"{path}: {sample.key}.{sample.extension}"
            image_bytes = content[offset : offset + sample.image.num_bytes]
            images.append(read_image(image_bytes, channels, name).numpy())
            labels.append(_parse_class_index(sample.label, f"{path}: {sample.key}.cls"))
            names.append(sample.key)
    return TensorImageDataset(stack_images(images, names), torch.tensor(labels, dtype=torch.int64), tuple(names))


@dataclass(frozen=True)
class TarMember:
    """A file in a tar: its name, the offset of its first byte, and its size in bytes."""

    name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class TarSample:
    """A sample of a shard: its key, its image and the extension of that, and its label as text."""

    key: str
    image: TarMember
    extension: str
    label: str


def list_tar_samples(path: Path, content: TarContent) -> list[TarSample]:
    """Return the samples of a tar in the order in which their keys first appear.

    A label is the text of KEY.cls, "label" (or "labels") in KEY.json, or the text of KEY.txt. Raises ValueError naming
    shard and key if an image or a label is missing or there twice, or the tar is truncated.
    """
    samples: dict[str, dict[str, TarMember]] = {}
    for member in list_tar_members(path, content):
        folder, _, file = member.name.rpartition("/")
        if file.startswith("."):  # metadata of macOS and of archivers
            continue
        stem, _, extension = file.partition(".")
        files = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
        first = files.setdefault(extension.lower(), member)
        if first is not member and extension.lower() in (*TAR_IMAGE_EXTENSIONS, *_MAX_LABEL_BYTES):
            next_step = "give each sample a key of its own, such as with its folder"
            raise invalid(f"every file of a sample once in {path}", f"{member.name} twice", next_step=next_step)
    return [_make_sample(path, content, key, members) for key, members in samples.items()]


def _make_sample(path: Path, content: TarContent, key: str, members: dict[str, TarMember]) -> TarSample:
    extension = next((extension for extension in TAR_IMAGE_EXTENSIONS if extension in members), "")
    label_extension = next((name for name in _MAX_LABEL_BYTES if name in members), "")
    if not extension or not label_extension:
        required = f"{path}: {key} with an image (.{', .'.join(_COMMON_EXTENSIONS)}, ...) and a label (.cls)"
        raise invalid(required, ", ".join(f".{member_extension}" for member_extension in members))
    label_member = members[label_extension]
    if label_member.num_bytes > _MAX_LABEL_BYTES[label_extension]:
        required = f"a label of at most {_MAX_LABEL_BYTES[label_extension]:,} bytes"
        raise invalid(f"{required} in {path}: {key}.{label_extension}", f"{label_member.num_bytes:,} bytes")
    text = bytes(content[label_member.offset : label_member.offset + label_member.num_bytes])
    label = _parse_label(text, label_extension == "json", f"{path}: {key}.{label_extension}")
    return TarSample(key, members[extension], extension, label)


def _parse_label(text: bytes, is_json: bool, name: str) -> str:
    try:
        label = _json_label(json.loads(text)) if is_json else text.decode()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid(f"{name} with a label{' under the key label' * is_json}", repr(text[:20])) from None
    if isinstance(label, list):
        return _join_list(label, name)
    if isinstance(label, float):
        return repr(label)
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise invalid(f"{name} with a label, a name or a whole number", f"a {type(label).__name__}")
    if not str(label).strip():
        raise invalid(f"{name} with a label", "an empty file")
    return str(label).strip()


def _json_label(content: Any) -> Any:
    return content["label"] if "label" in content else content["labels"]


def _join_list(values: list[Any], name: str) -> str:
    """Return several classes or numbers as one text: `cat|dog`."""
    for value in values:
        if not isinstance(value, str | int | float) or (isinstance(value, str) and ("|" in value or not value.strip())):
            raise invalid(f"{name} with a list of names or numbers as label", repr(value))
    return "|".join(str(int(value)) if isinstance(value, bool) else str(value).strip() for value in values)


def _parse_class_index(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise invalid(f"{name} as a whole number", repr(text.encode()[:20]))
    return int(text)


def list_tar_members(path: Path, content: TarContent) -> list[TarMember]:
    """Return the files in a tar. Raises ValueError naming it if it is truncated or not a tar.

    Plain headers are parsed here, ten times as fast as by `tarfile` (CIFAR-10 has 120,000); `tarfile` reads the rest.
    """
    for magic, kind, command in _COMPRESSED:
        if content[: len(magic)] == magic:
            raise invalid(f"{path} as a plain tar file", f"{kind} data", next_step=command.format(path=path))
    members = _list_plain_members(content)
    return _list_members_with_tarfile(content, path) if members is None else members


def _list_plain_members(content: TarContent) -> list[TarMember] | None:
    """Return the members of a tar of plain files with short names; None if it is anything else."""
    members, offset = [], 0
    while offset + _BLOCK_BYTES <= len(content) and content[offset]:
        header = content[offset : offset + _BLOCK_BYTES]
        size = header[124:136].strip(b"\0 ")
        is_plain_file = header[156:157] in (b"0", b"\0") and header[257:262] in (b"ustar", b"\0" * 5)
        has_name_prefix = bool(header[345])
        if not is_plain_file or has_name_prefix or not _OCTAL.fullmatch(size):
            return None
        data_offset, length = offset + _BLOCK_BYTES, int(size, 8)
        if data_offset + length > len(content):
            return None
        name = header[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")
        members.append(TarMember(name, data_offset, length))
        offset = data_offset + (length + _BLOCK_BYTES - 1) // _BLOCK_BYTES * _BLOCK_BYTES
    return members if members and _ends_at(content, offset) else None


def _ends_at(content: TarContent, offset: int) -> bool:
    """Return True if there is a block of zeros, the end of a tar; without one it was cut short."""
    return content[offset : offset + _BLOCK_BYTES] == b"\0" * _BLOCK_BYTES


def _list_members_with_tarfile(content: TarContent, path: Path) -> list[TarMember]:
    members = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.offset_data + max(0, member.size) > len(content) or member.size < 0:
                    got = f"{member.size:,} bytes from byte {member.offset_data:,} on, of {len(content):,}"
                    raise ValueError(f"its member {member.name!r} has {got}")
                if member.isfile() and not member.issparse():
                    members.append(TarMember(member.name, member.offset_data, member.size))
            is_complete = _ends_at(content, tar.offset)
    except (tarfile.TarError, EOFError, ValueError, OSError, OverflowError) as error:
        raise ValueError(f"{path}: truncated or not a tar file ({error}); download it again") from error
    if sum(member.num_bytes for member in members) == 0 or not is_complete:
        raise ValueError(f"{path}: truncated or not a tar file ({len(content)} bytes); download it again")
    return members


@dataclass(frozen=True)
class IndexedSample:
    """A sample of a shard: where its image is, its label as text, height and width, or why it cannot be read.

    `warning` is what the JPEG decoder warned of.
    """

    location: ImageLocation
    label: str
    height: int = 0
    width: int = 0
    error: str = ""
    warning: str = ""


class IndexRow(NamedTuple):
    """A sample in the cached index of a shard; rows instead of objects keep the file of a large shard small."""

    key: str
    offset: int
    num_bytes: int
    extension: str
    label: str
    height: int
    width: int
    error: str
    warning: str
    digest: str

    def to_sample(self, shard: Path | str) -> IndexedSample:
        """Return the row as a sample of a shard, a path or a URL."""
        location = ImageLocation(shard, self.key, self.offset, self.num_bytes, self.extension, self.digest)
        return IndexedSample(location, self.label, self.height, self.width, self.error, self.warning)


def index_shard(path: Path) -> list[IndexedSample]:
    """Return the samples of a shard in order; every image is decoded once, in threads, to find the broken ones.

    Raises ValueError naming the shard if it is truncated, not a tar, or a sample lacks its image or label.
    """
    rows = cached_index(str(path.resolve()), file_state(path.stat()), lambda: scan_shard(path))
    return [row.to_sample(path) for row in rows]


def cached_index(shard: str, version: list[Any], scan: Callable[[], list[IndexRow]]) -> list[IndexRow]:
    """Return a shard's index from the cache if it is of this version, else by `scan()`."""
    cache_path = cache_dir() / "shards" / f"{hashlib.sha256(os.fsencode(shard)).hexdigest()[:24]}.json"
    cached, state = read_json(cache_path), [_CACHE_FORMAT, *version, *limits_key()]
    if cached.get("state") == state:
        return [IndexRow(*row) for row in cached["samples"]]
    rows = scan()
    write_json(cache_path, {"state": state, "shard": shard, "samples": rows})
    return rows


def scan_shard(path: Path) -> list[IndexRow]:
    """Read a whole shard and return its index."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: truncated or not a tar file (0 bytes); download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, ThreadPoolExecutor() as pool:
            samples = list_tar_samples(path, content)
            return list(pool.map(lambda sample: _scan_sample(content, sample), samples))


def _scan_sample(content: TarContent, sample: TarSample) -> IndexRow:
    member = sample.image
    height, width, error, warning = 0, 0, "", ""
    image_bytes = bytes(content[member.offset : member.offset + member.num_bytes])
    try:
        image = decode_image(image_bytes, name=sample.key, collect_warning=True)
        (height, width), warning = image.pixels.shape[1:], image.warning
    except ValueError as reason:
        error = str(reason).removeprefix(f"{sample.key}: ")
    return IndexRow(
        key=sample.key,
        offset=member.offset,
        num_bytes=member.num_bytes,
        extension=sample.extension,
        label=sample.label,
        height=height,
        width=width,
        error=error,
        warning=warning,
        digest=content_digest(image_bytes),
    )
