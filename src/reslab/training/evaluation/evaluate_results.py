"""`evaluate_results`: the evaluation of a file of detections alone, without a network."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch

from reslab.data.boxes import BoxImageDataset, ImageId, begin_transform
from reslab.data.dataset import DatasetSplits
from reslab.data.formats.box_files import open_coco_file
from reslab.metrics.coco import encode_masks, require_coco_package
from reslab.metrics.detection import DetectionPrediction, Rle
from reslab.spec.errors import invalid
from reslab.training.evaluation.prediction_files import VOC_RESULT_FILE, ResultFile, ResultRow, read_results
from reslab.training.run_data import DataOptions, open_train_data
from reslab.training.tasks.detection import DetectedImage, DetectionEvaluation, evaluate_detections, make_target

_TASK = "detection"


def evaluate_results(
    results: str | Path,
    data: Any,
    *,
    split: str | None = None,
    options: DataOptions | None = None,
) -> DetectionEvaluation:
    """Evaluate the detections of a file on a split of `data`; images without any have none.

    `results` is COCO's JSON, a folder of VOC's text files, or the CSV of `save_predictions` (`read_results`). `data` is
    a folder or file of images with boxes, or one JSON file of COCO's annotations, whose images need not be there;
    `split` defaults to the evaluation split. Images are found by COCO's id or by name, with or without folder and
    ending, classes by `category_ids` of the data (without them 1 to the number of classes) or by name. The metrics
    equal those of `evaluate` of the network that wrote the file: COCO's JSON and the CSV have all digits. Masks count
    where each detection and each object has one.

    Raises ValueError as `read_results` and `open_dataset` do, and for images and categories that are not of the data.
    """
    require_coco_package()
    opened = _open_data(data, options or DataOptions())
    name = split or opened.eval_split
    dataset = opened.split(name)
    assert isinstance(dataset, BoxImageDataset), type(dataset)
    file = read_results(Path(results).expanduser())
    images = _find_images(file, opened, name)
    labels = _find_labels(file, opened.classes, dataset.category_ids)
    with_masks = _has_masks(file) and dataset.has_masks
    dataset = replace(dataset, with_masks=with_masks)
    by_image: dict[int, list[ResultRow]] = {}
    for row in file.rows:
        by_image.setdefault(images[row.image], []).append(row)
    detected = [_pair(dataset, i, by_image.get(i, ()), labels, with_masks) for i in range(len(dataset))]
    evaluation = evaluate_detections(detected, len(opened.classes), name)
    names = tuple(dataset.name(i) for i in range(len(dataset)))
    return replace(evaluation, classes=opened.classes, names=names, dataset=dataset)


def _open_data(data: Any, options: DataOptions) -> DatasetSplits:
    if isinstance(data, str | Path) and Path(data).suffix.lower() == ".json" and Path(data).expanduser().is_file():
        return open_coco_file(Path(data).expanduser())
    return open_train_data(data, replace(options, task=_TASK))


class _ImageKeys(NamedTuple):
    """A way to name images: the key of an image by its id and its name, and that of an image in a result."""

    of_data: Callable[[ImageId, str], ImageId | None]
    of_result: Callable[[ImageId], ImageId | None]


def _stem(name: ImageId) -> ImageId:
    return PurePosixPath(name.replace("\\", "/")).stem if isinstance(name, str) else name


def _file_name(name: ImageId) -> ImageId:
    return PurePosixPath(name.replace("\\", "/")).name if isinstance(name, str) else name


def _number(name: ImageId) -> int | None:
    stem = str(_stem(name))
    return int(stem) if stem.isascii() and stem.isdecimal() else None


# All results of a file name their images in one way, the first that suits every one.
_IMAGE_KEYS = (
    _ImageKeys(lambda image_id, name: image_id, lambda image: image),
    _ImageKeys(lambda image_id, name: name, lambda image: image),
    _ImageKeys(lambda image_id, name: _file_name(name), _file_name),
    _ImageKeys(lambda image_id, name: _stem(name), lambda image: image),
    _ImageKeys(lambda image_id, name: _stem(name), _stem),
    _ImageKeys(lambda image_id, name: _number(name), _number),
)


def _find_images(file: ResultFile, data: DatasetSplits, split: str) -> dict[ImageId, int]:
    """Return the index of each image of the results. Raises ValueError if the split lacks some."""
    images = list(dict.fromkeys(row.image for row in file.rows))
    indices = max((_match_images(images, data.splits[split], keys) for keys in _IMAGE_KEYS), key=len)
    if len(indices) == len(images):
        return indices
    unknown = {image for image in images if image not in indices}
    rows = [row for row in file.rows if row.image in unknown]
    got = f"{len(rows):,} of {len(file.rows):,} results of {len(unknown):,} other images, the first {rows[0].image!r}"
    others = [
        other
        for other in data.splits
        if other != split and any(len(_match_images(unknown, data.splits[other], keys)) for keys in _IMAGE_KEYS)
    ]
    next_step = f"images of the split {others[0]} are among them: choose it with split={others[0]}" if others else ""
    raise invalid(
        f"results of the {len(data.splits[split]):,} {split} images of {data.name}",
        f"{got} ({rows[0].location})",
        next_step=next_step or "check that the results belong to these data",
    )


def _match_images(images: Iterable[ImageId], dataset: Any, keys: _ImageKeys) -> dict[ImageId, int]:
    ids = dataset.table.image_ids
    of_data = [keys.of_data(ids[i], dataset.name(i)) for i in range(len(dataset))]
    counts = Counter(of_data)
    index = {key: i for i, key in enumerate(of_data) if key is not None and counts[key] == 1}
    matches = {image: index.get(key) for image in images if (key := keys.of_result(image)) is not None}
    indices = {image: i for image, i in matches.items() if i is not None}
    return indices if len(set(indices.values())) == len(indices) else {}


def _find_labels(file: ResultFile, classes: Sequence[str], category_ids: Sequence[int]) -> Mapping[int | str, int]:
    """Return the label from 0 of each category of the results. Raises ValueError for others, and VOC's without file."""
    ids = category_ids or range(1, len(classes) + 1)
    # A file name of VOC's has no slash, which a class may have.
    by_name = {name.replace("/", "_"): label for label, name in enumerate(classes)}
    by_name.update({name: label for label, name in enumerate(classes)})
    labels: dict[int | str, int] = {number: label for label, number in enumerate(ids)}
    labels.update(by_name)
    rows = [row for row in file.rows if row.category not in labels]
    if rows:
        names = list(dict.fromkeys(row.category for row in rows))
        got = (
            f"{len(rows):,} of {len(file.rows):,} of {len(names):,} others, the first {names[0]!r} ({rows[0].location})"
        )
        known = [str(number) for number in ids] if isinstance(names[0], int) else list(classes)
        shown = f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
        raise invalid(f"results of the {len(classes):,} categories of the data", got, next_step=f"known: {shown}")
    if file.categories is not None:
        files = {labels[name] for name in file.categories if name in labels}
        missing = [name for label, name in enumerate(classes) if label not in files]
        if missing:
            required = f"a file of each of the {len(classes)} classes in {file.path}"
            next_step = f"write an empty {VOC_RESULT_FILE.format(missing[0])} if nothing was detected"
            raise invalid(required, f"none of {', '.join(missing[:5])}", next_step=next_step)
    return labels


def _has_masks(file: ResultFile) -> bool:
    """Return True if every result has a mask. Raises ValueError if only some have one."""
    without = [row for row in file.rows if row.mask is None]
    if without and len(without) < len(file.rows):
        got = f"{len(without):,} of {len(file.rows):,} without, the first {without[0].location}"
        raise invalid(f"a segmentation of every result in {file.path} or of none", got)
    return bool(file.rows) and not without


def _pair(
    dataset: BoxImageDataset, i: int, rows: Sequence[ResultRow], labels: Mapping[int | str, int], with_masks: bool
) -> DetectedImage:
    target = make_target(dataset.finish_target(begin_transform(dataset.load_target(i))), with_masks)
    prediction = DetectionPrediction(
        target.image_id,
        torch.tensor([row.box for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row.score for row in rows], dtype=torch.float32),
        torch.tensor([labels[row.category] for row in rows], dtype=torch.int64),
        [_to_rle(row, dataset.image_sizes()[i]) for row in rows] if with_masks else None,
    )
    return DetectedImage(target, prediction)


def _to_rle(row: ResultRow, size: tuple[int, int]) -> Rle:
    assert row.mask is not None, row.location
    if (row.mask.height, row.mask.width) != size:
        required = f"a segmentation of the size of its image, {size[0]}x{size[1]}, in {row.location}"
        raise invalid(required, f"{row.mask.height}x{row.mask.width}")
    if isinstance(row.mask.counts, bytes):
        return {"size": list(size), "counts": row.mask.counts}
    return encode_masks(torch.from_numpy(row.mask.decode(*size).copy())[None])[0]
