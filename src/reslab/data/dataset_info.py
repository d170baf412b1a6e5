"""A data set that has a name: what is published about it, and which function reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.data.cache import cache_dir
from reslab.data.image_datasets import Images
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class Found:
    """What a reader found: splits, where, class names where the place tells them, and how it was split."""

    splits: Mapping[str, Images]
    location: str
    classes: tuple[str, ...] = ()
    split_record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Entry:
    """A named data set; `mean` and `std` are per channel of pixels / 255, empty where they are computed at opening.

    `read(entry, data_dir)` returns what it found; `system_dirs` are places where distributions install it.
    `words` are the evaluation's; `layout` tells the reader the names of its files.
    """

    name: str
    source: str
    read: Callable[["Entry", Path | None], Found]
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    statistics_source: str = ""
    words: str = ""
    system_dirs: tuple[str, ...] = ()
    layout: Any = None


def places(entry: Entry, data_dir: Path | None) -> list[Path]:
    """The folders to look in, in order: the one named, the cache (and their `NAME/`), the system's."""
    roots = [root for root in (data_dir, cache_dir()) if root is not None]
    named = [place for root in roots for place in (root, root / entry.name)]
    return named + [Path(place) for place in entry.system_dirs]


def download_dir(entry: Entry, data_dir: Path | None) -> Path:
    """Where a download goes: the folder named, else the cache."""
    return data_dir if data_dir is not None else cache_dir() / entry.name


def download(entry: Entry, fetch: Callable[[str], Any], place: Path, looked: list[Path], files: str) -> None:
    """Let torchvision fetch into `place`; raises ValueError that says which files to put where when it cannot."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        fetch(str(place))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip() or type(error).__name__
        raise invalid(
            f"{entry.name}, found on this machine or downloaded",
            f"nothing in {', '.join(map(str, looked))}, and the download failed ({reason})",
            next_step=f"put {files} into {place}, or name their folder with --data-dir",
        ) from error
