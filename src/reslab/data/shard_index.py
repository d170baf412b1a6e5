"""Looking through a shard once: where each picture lies, its label, its size, or why it cannot be read."""

import hashlib
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.data.cache import cache_dir, read_json, write_json
from reslab.data.decode import check_picture
from reslab.data.shard_images import Spot
from reslab.data.webdataset.tar import Content, Sample, shard_samples

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
