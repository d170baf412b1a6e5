"""The lists of images of each split in the layout of PASCAL VOC: `ImageSets/KIND/train.txt`, one name a line."""

from pathlib import Path

from reslab.data.image_datasets import SPLIT_TITLES
from reslab.spec.errors import invalid


def split_lists(folder: Path) -> dict[str, Path]:
    """Return the list of each split: train, val and test, else trainval or the only list as train.

    Raises ValueError if none is for training.
    """
    by_name = {path.stem.lower(): path for path in sorted(folder.glob("*.txt"))}
    lists = {split: by_name[split] for split in SPLIT_TITLES if split in by_name}
    if "train" not in lists:
        whole = by_name.get("trainval") or (next(iter(by_name.values())) if len(by_name) == 1 else None)
        if whole is None:
            raise invalid(f"train.txt in {folder}", ", ".join(path.name for path in by_name.values()) or "no list")
        lists = {"train": whole, **{split: path for split, path in lists.items() if split == "test" and path != whole}}
    return lists


def read_list(path: Path) -> list[str]:
    """Return the names in a list, one a line. Raises ValueError if it is not in UTF-8."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise invalid(f"{path} in UTF-8", str(error), next_step="save it as UTF-8") from None
    return [name for name in (line.strip() for line in lines) if name]
