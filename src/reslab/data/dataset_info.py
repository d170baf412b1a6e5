"""A data set that has a name: what is published about it, and which function reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.data.cache import cache_dir
from reslab.data.image_datasets import ImageDataset
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class ReadResult:
    """What a reader found: splits, where, class names where the place tells them, and how it was split."""

    splits: Mapping[str, ImageDataset]
    location: str
    classes: tuple[str, ...] = ()
    split_record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """A named data set; `mean` and `std` are per channel of pixels / 255, empty where they are computed at opening.

    `read(entry, data_dir)` returns what it found; `system_dirs` are places where distributions install it.
    `words` are the evaluation's; `layout` tells the reader the names of its files.
    """

    name: str
    reference: str
    read: Callable[["DatasetInfo", Path | None], ReadResult]
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    statistics_source: str = ""
    eval_transform: str = ""
    system_dirs: tuple[str, ...] = ()
    layout: Any = None


def search_dirs(info: DatasetInfo, data_dir: Path | None) -> list[Path]:
    """The folders to look in, in order: the one named, the cache (and their `NAME/`), the system's."""
    roots = [root for root in (data_dir, cache_dir()) if root is not None]
    candidates = [directory for root in roots for directory in (root, root / info.name)]
    return candidates + [Path(directory) for directory in info.system_dirs]


def download_dir(info: DatasetInfo, data_dir: Path | None) -> Path:
    """Where a download goes: the folder named, else the cache."""
    return data_dir if data_dir is not None else cache_dir() / info.name


def download(
    info: DatasetInfo, fetch: Callable[[str], Any], target_dir: Path, searched: list[Path], expected: str
) -> None:
    """Let torchvision fetch into `place`; raises ValueError that says which files to put where when it cannot."""
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        fetch(str(target_dir))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip() or type(error).__name__
        raise invalid(
            f"{info.name}, found on this machine or downloaded",
            f"nothing in {', '.join(map(str, searched))}, and the download failed ({reason})",
            next_step=f"put {expected} into {target_dir}, or name their folder with --data-dir",
        ) from error
