"""A named dataset: its published facts, the function that reads it, and where to look for it or download it to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.data.image_datasets import ImageDataset
from reslab.runtime.files import cache_dir, can_search
from reslab.spec.errors import invalid
from reslab.spec.task import DEFAULT_TASK


@dataclass(frozen=True)
class ReadResult:
    """A named dataset as read: splits, location, and class names if the files have them."""

    splits: Mapping[str, ImageDataset]
    location: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """A named dataset; `mean` and `std` are per channel of pixels / 255, empty if they are computed when it is opened.

    `read(info, data_dir)` reads it. `system_dirs` are folders where Linux distributions install it; `layout` holds the
    file names that `read` needs, `task` is what its targets are for. Of data without a test split `test_fraction` of
    the images, the same of each class, are held out for one.
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
    test_fraction: float = 0.0
    task: str = DEFAULT_TASK


def search_dirs(info: DatasetInfo, data_dir: Path | None) -> list[Path]:
    """Return the folders to search, in order: `data_dir` and the cache, each also with NAME/, then the system's.

    A cache that this user may not look into is left out.
    """
    roots = [*([] if data_dir is None else [data_dir]), *filter(can_search, [cache_dir()])]
    candidates = [directory for root in roots for directory in (root, root / info.name)]
    return candidates + [Path(directory) for directory in info.system_dirs]


def download_with_torchvision(info: DatasetInfo, class_name: str, data_dir: Path | None, expected: str) -> Path:
    """Download a dataset by its class in torchvision and return the folder: `data_dir`, else one in the cache.

    Raises ValueError with the `expected` files and where to put them if that fails.
    """
    target_dir = data_dir if data_dir is not None else cache_dir() / info.name
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        _download(class_name, str(target_dir))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip() or type(error).__name__
        searched = ", ".join(map(str, search_dirs(info, data_dir)))
        raise invalid(
            f"{info.name}, on this machine or downloadable",
            f"nothing in {searched}, and the download failed ({reason})",
            next_step=f"put {expected} into {target_dir}, or name their folder with --data-dir",
        ) from error
    return target_dir


def _download(class_name: str, root: str) -> None:
    import torchvision.datasets

    getattr(torchvision.datasets, class_name)(root, download=True)
