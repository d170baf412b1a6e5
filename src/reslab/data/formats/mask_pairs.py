"""List images with their masks: two folders whose files have the same names, or the lists of a VOC folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.class_folders import find_image_files, split_of_folder, subfolders
from reslab.data.formats.file_listing import read_list, split_lists
from reslab.data.masks import MaskValues
from reslab.spec.errors import invalid, nearest

_MASK_SUFFIX = re.compile(r"[_.-](masks?|labels?|seg|segmentation|gt|annotations?)$", re.IGNORECASE)
_IMAGE_LISTS = "ImageSets/Segmentation"
_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class MaskLayout:
    """The names, in lower case, of the folders of images and of masks that belong together.

    `lists` is the folder of text files that list the images of each split; `classes` are the names of the classes
    where neither a list nor a palette names them, `values` what the numbers in the masks are.
    """

    name: str
    images: tuple[str, ...]
    masks: tuple[str, ...]
    lists: str = ""
    classes: tuple[str, ...] = ()
    values: MaskValues = MaskValues.CLASSES


LAYOUTS = (
    MaskLayout("voc", ("jpegimages",), ("segmentationclass",), _IMAGE_LISTS),
    MaskLayout(
        "penn-fudan", ("pngimages",), ("pedmasks",), classes=("background", "person"), values=MaskValues.INSTANCES
    ),
    MaskLayout(
        "folders",
        ("images", "image", "imgs", "img", "jpegimages", "pngimages"),
        ("masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass"),
    ),
)
"""The layouts of images with masks, tried in this order."""


@dataclass(frozen=True)
class MaskPairs:
    """The images of each split with their masks, in the order of their names; `messages` say what is not read.

    `unpaired` are the images without a mask and the masks without an image, each with the reason.
    """

    root: Path
    layout: MaskLayout
    splits: Mapping[str, Sequence[tuple[Path, Path]]]
    messages: tuple[str, ...] = ()
    unpaired: tuple[tuple[Path, str], ...] = field(default=())

    @property
    def all_pairs(self) -> list[tuple[Path, Path]]:
        """The pairs (image, mask) of all splits."""
        return [pair for pairs in self.splits.values() for pair in pairs]


@dataclass(frozen=True)
class _FolderPair:
    """The folder of images and that of masks of one split."""

    split: str
    images: Path
    masks: Path


def find_layout(root: Path) -> MaskLayout | None:
    """Return the layout of a folder of images with masks; None if it is none, as no image has a mask of its name."""
    if not root.is_dir():
        return None
    return next((layout for layout in LAYOUTS if any(map(_has_pair, _folder_pairs(root, layout)))), None)


def _has_pair(pair: _FolderPair) -> bool:
    image_keys = {_key(pair.images, path) for path in find_image_files(pair.images)}
    return any(_image_key(pair.masks, path, image_keys) is not None for path in find_image_files(pair.masks))


def _folder_pairs(root: Path, layout: MaskLayout) -> list[_FolderPair]:
    """Return the pairs of folders: IMAGES/ and MASKS/, with the folders of splits below, above or without any."""
    above = {split: path for path in subfolders(root) if (split := split_of_folder(path.name))}
    pairs = [_FolderPair(split, *folders) for split, path in above.items() if (folders := _pair_in(path, layout))]
    top = _pair_in(root, layout)
    if top is None:
        return pairs
    images, masks = top
    below = {split: path for path in subfolders(images) if (split := split_of_folder(path.name))}
    if "train" not in below:
        return [*pairs, _FolderPair("train", images, masks)]
    for split, path in below.items():
        mask_folder = next((other for other in subfolders(masks) if split_of_folder(other.name) == split), None)
        pairs.append(_FolderPair(split, path, mask_folder or masks / path.name))
    return pairs


def _pair_in(folder: Path, layout: MaskLayout) -> tuple[Path, Path] | None:
    by_name = {path.name.lower(): path for path in subfolders(folder)}
    images = next((by_name[name] for name in layout.images if name in by_name), None)
    masks = next((by_name[name] for name in layout.masks if name in by_name), None)
    return (images, masks) if images and masks else None


def list_mask_pairs(root: Path, layout: MaskLayout) -> MaskPairs:
    """Return the images of a folder with their masks, by split.

    Raises ValueError for two files of one name, a split that occurs twice, and lists that name missing files.
    """
    folders = _folder_pairs(root, layout)
    twice = [pair.split for pair in folders if sum(other.split == pair.split for other in folders) > 1]
    if twice:
        got = " and ".join(str(pair.images) for pair in folders if pair.split == twice[0])
        raise invalid(f"one folder of {SPLIT_TITLES[twice[0]]} images in {root}", got, next_step="keep one")
    if layout.lists and (root / layout.lists).is_dir():
        return _listed_pairs(root, layout, folders[0])
    splits: dict[str, list[tuple[Path, Path]]] = {}
    unpaired: list[tuple[Path, str]] = []
    messages = []
    for pair in folders:
        pairs, rest = _match(pair.images, pair.masks)
        if pair.split == "test" and not pairs and not find_image_files(pair.masks):
            messages.append(f"{pair.images} is not read: test images without masks")
            continue
        splits[pair.split] = pairs
        unpaired += rest
    ordered = {split: splits[split] for split in SPLIT_TITLES if splits.get(split)}
    return MaskPairs(root, layout, ordered, tuple(messages), tuple(unpaired))


def _match(images: Path, masks: Path) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Return the pairs of two folders by name, whatever the ending, and the files that are left over."""
    image_of = unique_by_key(images, {path: _key(images, path) for path in find_image_files(images)})
    mask_keys = {path: _image_key(masks, path, image_of) or _key(masks, path) for path in find_image_files(masks)}
    mask_of = unique_by_key(masks, mask_keys)
    pairs = [(image_of[key], mask_of[key]) for key in sorted(image_of) if key in mask_of]
    rest = [(image_of[key], f"an image without a mask in {masks}") for key in sorted(image_of) if key not in mask_of]
    rest += [(mask_of[key], f"a mask without an image in {images}") for key in sorted(mask_of) if key not in image_of]
    return pairs, rest


def _key(folder: Path, path: Path) -> str:
    """Return the path of a file below a folder without its ending."""
    relative = path.relative_to(folder)
    return (relative.parent / relative.stem).as_posix()


def _image_key(folder: Path, path: Path, image_keys: Mapping[str, Path] | set[str]) -> str | None:
    """Return the key of the image that a mask belongs to: the mask's own, or without `_mask` and the like."""
    key = _key(folder, path)
    candidates = (key, _MASK_SUFFIX.sub("", key))
    return next((candidate for candidate in candidates if candidate in image_keys), None)


def unique_by_key(folder: Path, keys: Mapping[Path, str]) -> dict[str, Path]:
    """Return the files of a folder by their keys. Raises ValueError for two of one key."""
    by_key: dict[str, Path] = {}
    for path, key in keys.items():
        first = by_key.setdefault(key, path)
        if first is not path:
            got = f"{first.name} and {path.name}"
            raise invalid(f"one file for the image {key} in {folder}", got, next_step="remove one of them")
    return by_key


def _listed_pairs(root: Path, layout: MaskLayout, folders: _FolderPair) -> MaskPairs:
    """Return the pairs that the lists of a VOC folder name: train, val and test, else trainval or the only list."""
    lists = split_lists(root / layout.lists)
    images = unique_by_key(
        folders.images, {path: _key(folders.images, path) for path in find_image_files(folders.images)}
    )
    masks = unique_by_key(folders.masks, {path: _key(folders.masks, path) for path in find_image_files(folders.masks)})
    splits: dict[str, list[tuple[Path, Path]]] = {}
    messages: list[str] = []
    for split, list_path in lists.items():
        names = read_list(list_path)
        if split == "test" and not any(name in masks for name in names):
            messages.append(f"{list_path.relative_to(root)} is not read: test images without masks")
            continue
        splits[split] = [_listed_pair(list_path, name, images, masks) for name in names]
    listed = {mask for pairs in splits.values() for _, mask in pairs}
    unlisted = [path for path in masks.values() if path not in listed]
    if unlisted:
        noun = "1 mask is" if len(unlisted) == 1 else f"{len(unlisted):,} masks are"
        messages.append(f"{noun} not read, as no list in {layout.lists} names them ({_names(unlisted)})")
    return MaskPairs(root, layout, splits, tuple(messages))


def _listed_pair(
    list_path: Path, name: str, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> tuple[Path, Path]:
    for kind, files in (("image", images), ("mask", masks)):
        if name not in files:
            close = nearest(name, files, 1)
            raise invalid(
                f"an {kind}" if kind == "image" else "a mask", f"none of the name {name} in {list_path}", *close
            )
    return images[name], masks[name]


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:_NUM_EXAMPLES]) + (" ..." if len(paths) > _NUM_EXAMPLES else "")


def check_paired(pairs: MaskPairs) -> None:
    """Raise ValueError naming the images without a mask and the masks without an image."""
    if pairs.unpaired:
        lines = "".join(f"\n  {path}: {reason}" for path, reason in pairs.unpaired)
        count = "1 file" if len(pairs.unpaired) == 1 else f"{len(pairs.unpaired):,} files"
        error = invalid("a mask of the same name for every image", count, next_step="add or remove files")
        raise ValueError(f"{error}:{lines}")


def iter_images(root: Path) -> Iterator[Path]:
    """Yield the images of a folder of images with masks, without the masks."""
    layout = find_layout(root)
    assert layout is not None, root
    for pair in _folder_pairs(root, layout):
        yield from find_image_files(pair.images)
