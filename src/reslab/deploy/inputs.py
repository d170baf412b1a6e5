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

from reslab.data.decode import read_picture
from reslab.data.formats.class_folders import EXTENSIONS, is_picture, pictures_in
from reslab.data.formats.csv_table import csv_lines
from reslab.data.image_datasets import Spot
from reslab.data.webdataset.tar import shard_places
from reslab.spec.errors import invalid

STDIN = "-"
_LISTS = (".csv", ".tsv")
_SHARD = ".tar"


@dataclass(frozen=True)
class Item:
    """A picture by the `path` it is called; where it is no file of its own, its place in a shard or its `content`."""

    path: str
    spot: Spot | None = None
    content: bytes | None = None

    def pixels(self, channels: int) -> Tensor:
        """uint8 (channels, H, W). Raises ValueError where it cannot be read."""
        if self.spot is not None:
            return read_picture(self.spot.read(), channels, self.path, self.spot.ending)
        return read_picture(self.path if self.content is None else self.content, channels, self.path)


def list_items(inputs: str | Path | Iterable[str | Path]) -> list[Item]:
    """The pictures that are named, in order: a file itself; of a folder all pictures in it, or in its shards where it
    has nothing else; of a .tar the pictures in it, with or without labels; of a .csv those of its column `path`,
    relative to it; of a pattern (`photos/*.jpg`) all files that match; of `-` a picture, or paths one a line, from
    standard input.

    Raises ValueError where a folder, shard, list or pattern holds no picture, and where nothing is named.
    """
    found: list[Item] = []
    for place in [inputs] if isinstance(inputs, str | Path) else inputs:
        found += _items_of(str(place))
    if not found:
        raise invalid("at least one picture or folder of pictures", "none")
    return found


def list_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """The files named, and of a folder every picture in it, as `list_items` finds them."""
    return [Path(item.path) for item in list_items(paths)]


def _items_of(text: str) -> list[Item]:
    path = Path(text)
    if text == STDIN:
        return _from_stdin(sys.stdin.buffer.read())
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() == _SHARD and path.is_file():
        return _in_shard(path)
    if path.suffix.lower() in _LISTS and path.is_file():
        return _in_list(path)
    if not path.exists() and glob.has_magic(text):
        matched = [item for name in sorted(glob.glob(text, recursive=True)) for item in _items_of(name)]
        if not matched:
            raise invalid(f"files that match {text}", "none", next_step="check the pattern")
        return matched
    return [Item(str(path))]


def _in_folder(folder: Path) -> list[Item]:
    inside = pictures_in(folder)
    if inside:
        return [Item(str(path)) for path in inside]
    shards = sorted(folder.rglob(f"*{_SHARD}"))
    if not shards:
        raise invalid(f"pictures ({', '.join(EXTENSIONS)}) in {folder}", "none", next_step="name another folder")
    return [item for shard in shards for item in _in_shard(shard)]


def _in_shard(shard: Path) -> list[Item]:
    if not shard.stat().st_size:
        raise ValueError(f"{shard}: empty (0 bytes); fetch it again")
    with shard.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        places = shard_places(shard, content)
    found = []
    for place in places:
        if is_picture(place.name.rpartition("/")[2]):
            key, _, ending = place.name.rpartition(".")
            spot = Spot(shard, key, place.start, place.num_bytes, ending)
            found.append(Item(f"{shard}/{place.name}", spot))
    if not found:
        raise invalid(f"pictures ({', '.join(EXTENSIONS)}) in {shard}", f"{len(places)} other files")
    return found


def _in_list(file: Path) -> list[Item]:
    lines = csv_lines(file)
    header = next(lines, (1, []))[1]
    names = [name.strip().lower() for name in header]
    if "path" not in names:
        got = ",".join(header) or "an empty file"
        raise invalid(f"a first line with the column path in {file}", got, next_step="name the column of paths: path")
    place = names.index("path")
    found = [Item(str(file.parent / row[place].strip())) for _, row in lines if len(row) > place and row[place].strip()]
    if not found:
        raise invalid(f"paths in {file}", "none below its first line")
    return found


def _from_stdin(content: bytes) -> list[Item]:
    """A picture, where the bytes are one; else the paths that they list."""
    if _is_picture(content):
        return [Item(STDIN, content=content)]
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        return [Item(STDIN, content=content)]  # neither text nor a picture: a row with its error
    found = [item for line in lines if line.strip() for item in _items_of(_not_again(line.strip()))]
    if not found:
        raise invalid("a picture, or paths one a line, on standard input", "nothing")
    return found


def _not_again(line: str) -> str:
    if line == STDIN:
        raise invalid("paths on standard input", "'-', which is standard input itself")
    return line


def _is_picture(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a picture, if a broken one: what is wrong with it is said where it is read
        return True


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in runs of `size`, the last as long as what is left."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
