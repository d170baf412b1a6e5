"""WebDataset shards as a data set: a folder of them read like a folder of pictures, or by URL, streamed."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reslab.data.dataset import Data
from reslab.data.decoded_cache import decoded_once
from reslab.data.formats.class_folders import SPLIT_FOLDERS
from reslab.data.formats.image_folder import IMAGENET_MEAN, IMAGENET_STD
from reslab.data.image_datasets import Images, ShardImages, TensorImages, spot_name
from reslab.data.splits import check_fraction, divided, evaluation_words, left_out
from reslab.data.webdataset.http import text_if_there
from reslab.data.webdataset.remote import index_urls, is_url, url_root, url_shards
from reslab.data.webdataset.tar import Indexed, index_shard
from reslab.spec.errors import invalid, nearest
from reslab.spec.preprocess import Preprocess

MOST_BYTES_IN_MEMORY = 1 << 30
_SPLIT_OF = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
_PREFIX = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})(?![a-z])")


def find_shards(place: Path) -> dict[str, list[Path]]:
    """The tar files of each split: train-*.tar, val-*.tar, test-*.tar or train/*.tar ...; without such names all train.

    Empty where there is none. Raises ValueError where some names tell a split and others do not, or none is train.
    """
    if place.is_file():
        return {"train": [place]} if place.suffix == ".tar" else {}
    if not place.is_dir():
        return {}
    inside = [path for name in _SPLIT_OF for path in (place / name).glob("*.tar")]
    found: dict[str, list[Path]] = {}
    for path in sorted([*place.glob("*.tar"), *inside]):
        named = _PREFIX.match(path.relative_to(place).as_posix())
        found.setdefault(_SPLIT_OF[named[1]] if named else "", []).append(path)
    if set(found) == {""}:
        return {"train": found[""]}
    if "" in found:
        names = ", ".join(path.name for path in found[""][:5])
        raise invalid(
            f"shards of {place} all called train-, val- or test-",
            f"{names} beside the others",
            f"train-{found[''][0].name}",
        )
    if found and "train" not in found:
        raise invalid(
            f"train-*.tar in {place}", f"only shards of {' and '.join(found)}", next_step="add the training shards"
        )
    return {split: found[split] for split in SPLIT_FOLDERS if split in found}


def open_shards(
    place: Path,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> Data:
    """The pictures of a folder of shards (or of one), KEY.jpg beside KEY.cls: indexed once, then read where they lie.

    A label is the number of a class (named in classes.txt, one a line in label order, else "0", "1", ...) or its name
    (classes in lexicographic order). Small pictures of one size are decoded once into memory. Splits, records and
    broken pictures as of a folder. Raises ValueError naming shard and key of every fault.
    """
    place = place.resolve()
    root = place.parent if place.is_file() else place
    if val_fraction is not None:
        check_fraction(val_fraction)
    found = {split: _indexed(paths) for split, paths in find_shards(place).items()}
    name = place.stem if place.is_file() else place.name
    return _data(name, place, root, found, val_fraction, split_seed, skip_bad_images, split_record)


def open_url_shards(
    text: str,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> Data:
    """The pictures of shards by URL (`url_shards.url_shards`), as `open_shards` those of a folder.

    Training streams them (`flow`); evaluation reads neighbours together. Nothing of them stays on this machine but the
    index. classes.txt may lie in the folder that all of them are in. Raises ValueError as `open_shards` does, and where
    a file cannot be fetched or the extra `webdataset` is missing.
    """
    if val_fraction is not None:
        check_fraction(val_fraction)
    urls = url_shards(text)
    root = url_root([url for part in urls.values() for url in part])
    found = {split: index_urls(part) for split, part in urls.items()}
    name = root.rpartition("/")[2]
    return _data(name, text, root, found, val_fraction, split_seed, skip_bad_images, split_record)


def _data(
    name: str,
    place: Path | str,
    root: Path | str,
    found: Mapping[str, Sequence[Indexed]],
    val_fraction: float | None,
    split_seed: int,
    skip_bad_images: bool,
    split_record: Mapping[str, Any] | None,
) -> Data:
    """The data set of indexed samples; `place` is what was opened, names are relative to `root`."""
    classes = shard_classes(root, {split: [sample.label for sample in samples] for split, samples in found.items()})
    everything = [sample for samples in found.values() for sample in samples]
    bad = {spot_name(sample.spot, root): sample.error for sample in everything if sample.error}
    skipped = left_out(root, bad, skip_bad_images, split_record)
    words = evaluation_words((sample.height, sample.width) for sample in everything if not sample.error)
    names = {name for name, _ in skipped}
    splits: Mapping[str, Images] = {
        split: _held(name, root, [s for s in samples if spot_name(s.spot, root) not in names], classes, words)
        for split, samples in found.items()
    }
    parts, record = divided(place, splits, classes, val_fraction, split_seed, split_record)
    if skipped:
        record = {**record, "skipped": [list(pair) for pair in skipped]}
    preprocess = Preprocess(3, words, IMAGENET_MEAN, IMAGENET_STD)
    source = f"shards in {place}"
    return Data(name, source, classes, preprocess, parts, record, skipped=skipped, location=str(place))


def _indexed(paths: Sequence[Path]) -> list[Indexed]:
    return [sample for path in paths for sample in index_shard(path)]


def shard_classes(root: Path | str, labels: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of the classes in label order, from classes.txt or from the labels of all splits.

    Raises ValueError where classes.txt does not have a label, or a split has one that train has not.
    """
    file = f"{root}/classes.txt"
    named = tuple(line.strip() for line in _text(file).splitlines() if line.strip())
    every = {label for part in labels.values() for label in part}
    if every and all(label.isascii() and label.isdigit() for label in every):
        most = max(map(int, every))
        if named and most >= len(named):
            raise invalid(f"labels below {len(named)}, the number of names in {file}", most, str(len(named) - 1))
        return named or tuple(map(str, range(most + 1)))
    known = set(named or labels["train"])
    for label in sorted(every - known):
        near = nearest(label, known, 1)
        raise invalid(
            f"labels among {'those of ' + file if named else 'those of train'}",
            repr(label),
            near[0] if near else "",
        )
    return named or tuple(sorted(every))


def _text(file: str) -> str:
    """The text of a file by path or URL; empty where there is none."""
    if is_url(file):
        return text_if_there(file) or ""
    path = Path(file)
    return path.read_text("utf-8") if path.is_file() else ""


def _held(name: str, root: Path | str, samples: Sequence[Indexed], classes: tuple[str, ...], words: str) -> Images:
    """The pictures where they lie, or in memory where they are small, of one size, not too many and not by URL."""
    place_of = {label: place for place, label in enumerate(classes)}
    labels = [place_of[sample.label] if sample.label in place_of else int(sample.label) for sample in samples]
    images = ShardImages(tuple(sample.spot for sample in samples), torch.tensor(labels, dtype=torch.int64), 3, root)
    if images.by_url or words or len(samples) * 3 * samples[0].height * samples[0].width > MOST_BYTES_IN_MEMORY:
        return images  # no words: small, and all of one size
    shards = sorted({Path(sample.spot.shard) for sample in samples})
    kept = decoded_once(f"{name}-{len(samples)}", shards, lambda: _decoded(images))
    return replace(kept, labels=images.labels, names=tuple(images.name(i) for i in range(len(images))))


def _decoded(images: ShardImages) -> TensorImages:
    with ThreadPoolExecutor() as pool:
        return TensorImages(torch.stack(list(pool.map(images.pixels, range(len(images))))), images.labels)
