"""What is to be predicted: files, folders, patterns, shards, CSV files of paths, standard input, picture by picture."""

import glob
import io
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from reslab.data.decode import read_image
from reslab.data.formats.class_folders import IMAGE_EXTENSIONS, find_image_files, is_image_file
from reslab.data.formats.csv_table import read_csv_rows
from reslab.data.image_datasets import ImageLocation
from reslab.data.webdataset.tar import list_tar_members
from reslab.spec.errors import invalid

STDIN = "-"
_TABLE_SUFFIXES = (".csv", ".tsv")
_SHARD_SUFFIX = ".tar"


@dataclass(frozen=True)
class InputItem:
    """A picture by the `path` it is called; where it is no file of its own, its place in a shard or its `content`."""

    path: str
    tar_entry: ImageLocation | None = None
    content: bytes | None = None

    def decode(self, channels: int) -> Tensor:
        """uint8 (channels, H, W). Raises ValueError where it cannot be read."""
        if self.tar_entry is not None:
            return read_image(self.tar_entry.read_bytes(), channels, self.path, self.tar_entry.extension)
        return read_image(self.path if self.content is None else self.content, channels, self.path)


def list_inputs(inputs: str | Path | Iterable[str | Path]) -> list[InputItem]:
    """The pictures that are named, in order: a file itself; of a folder all pictures in it, or in its shards where it
    has nothing else; of a .tar the pictures in it, with or without labels; of a .csv those of its column `path`,
    relative to it; of a pattern (`photos/*.jpg`) all files that match; of `-` a picture, or paths one a line, from
    standard input.

    Raises ValueError where a folder, shard, list or pattern holds no picture, and where nothing is named.
    """
    items: list[InputItem] = []
    for source in [inputs] if isinstance(inputs, str | Path) else inputs:
        items += _expand_input(str(source))
    if not items:
        raise invalid("at least one picture or folder of pictures", "none")
    return items


def list_image_paths(paths: Sequence[str | Path]) -> list[Path]:
    """The files named, and of a folder every picture in it, as `list_items` finds them."""
    return [Path(item.path) for item in list_inputs(paths)]


def _expand_input(text: str) -> list[InputItem]:
    path = Path(text)
    if text == STDIN:
        return _list_stdin(sys.stdin.buffer.read())
    if path.is_dir():
        return _list_folder(path)
    if path.suffix.lower() == _SHARD_SUFFIX and path.is_file():
        return _list_shard(path)
    if path.suffix.lower() in _TABLE_SUFFIXES and path.is_file():
        return _list_table(path)
    if not path.exists() and glob.has_magic(text):
        matched = [item for name in sorted(glob.glob(text, recursive=True)) for item in _expand_input(name)]
        if not matched:
            raise invalid(f"files that match {text}", "none", next_step="check the pattern")
        return matched
    return [InputItem(str(path))]


def _list_folder(folder: Path) -> list[InputItem]:
    paths = find_image_files(folder)
    if paths:
        return [InputItem(str(path)) for path in paths]
    shards = sorted(folder.rglob(f"*{_SHARD_SUFFIX}"))
    if not shards:
        raise invalid(f"pictures ({', '.join(IMAGE_EXTENSIONS)}) in {folder}", "none", next_step="name another folder")
    return [item for shard in shards for item in _list_shard(shard)]


def _list_shard(shard: Path) -> list[InputItem]:
    if not shard.stat().st_size:
        raise ValueError(f"{shard}: empty (0 bytes); fetch it again")
    with shard.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        entries = list_tar_members(shard, content)
    items = []
    for entry in entries:
        if is_image_file(entry.name.rpartition("/")[2]):
            key, _, suffix = entry.name.rpartition(".")
            tar_entry = ImageLocation(shard, key, entry.offset, entry.num_bytes, suffix)
            items.append(InputItem(f"{shard}/{entry.name}", tar_entry))
    if not items:
        raise invalid(f"pictures ({', '.join(IMAGE_EXTENSIONS)}) in {shard}", f"{len(entries)} other files")
    return items


def _list_table(path: Path) -> list[InputItem]:
    rows = read_csv_rows(path)
    header = next(rows, (1, []))[1]
    names = [name.strip().lower() for name in header]
    if "path" not in names:
        got = ",".join(header) or "an empty file"
        raise invalid(f"a first line with the column path in {path}", got, next_step="name the column of paths: path")
    column = names.index("path")
    items = [
        InputItem(str(path.parent / cells[column].strip()))
        for _, cells in rows
        if len(cells) > column and cells[column].strip()
    ]
    if not items:
        raise invalid(f"paths in {path}", "none below its first line")
    return items


def _list_stdin(content: bytes) -> list[InputItem]:
    """A picture, where the bytes are one; else the paths that they list."""
    if _is_image(content):
        return [InputItem(STDIN, content=content)]
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        return [InputItem(STDIN, content=content)]  # neither text nor a picture: a row with its error
    items = [item for line in lines if line.strip() for item in _expand_input(_reject_stdin(line.strip()))]
    if not items:
        raise invalid("a picture, or paths one a line, on standard input", "nothing")
    return items


def _reject_stdin(line: str) -> str:
    if line == STDIN:
        raise invalid("paths on standard input", "'-', which is standard input itself")
    return line


def _is_image(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a picture, if a broken one: what is wrong with it is said where it is read
        return True


def chunked(items: Sequence[InputItem], size: int) -> Iterator[Sequence[InputItem]]:
    """The items in runs of `size`, the last as long as what is left."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
