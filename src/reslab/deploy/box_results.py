"""Boxes in the result formats of COCO and PASCAL VOC, which their evaluation tools read."""

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reslab.data.boxes import BoxImageDataset
from reslab.deploy.prediction import Prediction
from reslab.metrics.coco import coco_result, encode_coco_results
from reslab.metrics.detection import ImageId
from reslab.report.images import unique_stems
from reslab.training.evaluation.prediction_files import VOC_RESULT_FILE
from reslab.training.run import Run
from reslab.training.run_data import reopen_data


@dataclass(frozen=True)
class ResultIds:
    """The `classes` of a detector in order, COCO's ids of them, and COCO's ids of images by file name.

    Classes without an id have their number from 1; images without one the name of their file without its ending, as a
    number if all names are digits, as COCO's own are.
    """

    classes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    image_ids: Mapping[str, ImageId] = field(default_factory=dict)

    def category_id(self, name: str) -> int:
        """Return the id of a class."""
        index = self.classes.index(name)
        return self.category_ids[index] if self.category_ids else index + 1

    def of_images(self, paths: Sequence[str]) -> list[ImageId]:
        """Return the id of the image of each path."""
        if all(Path(path).name in self.image_ids for path in paths):
            return [self.image_ids[Path(path).name] for path in paths]
        unique = unique_stems(paths)
        stems = [unique[path] for path in paths]
        are_numbers = all(stem.isdecimal() and stem.isascii() for stem in stems)
        return [int(stem) for stem in stems] if are_numbers else list(stems)


def find_ids(source: Path, classes: Sequence[str]) -> ResultIds:
    """Return the ids of the data of a run's folder; those without data if it is none, or its data cannot be opened."""
    plain = ResultIds(tuple(classes))
    if not (source / "run.json").is_file():
        return plain
    try:
        data = reopen_data(Run(source).metadata["data"])
    except (ValueError, OSError):
        return plain
    splits = [split for split in data.splits.values() if isinstance(split, BoxImageDataset)]
    category_ids = next((split.category_ids for split in splits if split.category_ids), ())
    if not category_ids or tuple(data.classes) != plain.classes:
        return plain
    names = [(Path(split.name(i)).name, split.table.image_ids[i]) for split in splits for i in range(len(split))]
    counts = Counter(name for name, _ in names)
    return ResultIds(plain.classes, category_ids, {name: image_id for name, image_id in names if counts[name] == 1})


def encode_coco(predictions: Sequence[Prediction], ids: ResultIds) -> bytes:
    """Return COCO's results as JSON: `image_id`, `category_id`, `bbox` (x, y, width, height), `score`.

    A box with a mask also has `segmentation` in run-length encoding. Images that could not be read have none.
    """
    image_ids = ids.of_images([prediction.path for prediction in predictions])
    results = []
    for prediction, image_id in zip(predictions, image_ids, strict=True):
        for box in prediction.boxes or ():
            mask = None if box.segment is None else box.segment.to_dict()
            results.append(coco_result(image_id, ids.category_id(box.name), box.box, box.score, mask))
    return encode_coco_results(results)


def encode_voc(predictions: Sequence[Prediction], ids: ResultIds) -> dict[str, bytes]:
    """Return VOC's result file of each class by its name, with lines of image, score, xmin, ymin, xmax and ymax.

    VOC counts pixels from 1 and both ends belong to a box, so (x1, y1, x2, y2) is x1 + 1, y1 + 1, x2, y2.
    """
    stems = unique_stems([prediction.path for prediction in predictions])
    lines: dict[str, list[str]] = {name: [] for name in ids.classes}
    for prediction in predictions:
        for box in prediction.boxes or ():
            x1, y1, x2, y2 = box.box
            sides = " ".join(f"{side:.6f}" for side in (x1 + 1, y1 + 1, x2, y2))
            lines[box.name].append(f"{stems[prediction.path]} {box.score:.6f} {sides}\n")
    return {VOC_RESULT_FILE.format(name.replace("/", "_")): "".join(rows).encode() for name, rows in lines.items()}


@dataclass(frozen=True)
class BoxResultFormat:
    """A file format of boxes alone: `encode` returns the bytes of a file, or of a folder those of its files by name."""

    encode: Callable[[Sequence[Prediction], ResultIds], bytes | Mapping[str, bytes]]


BOX_FORMATS = {".coco.json": BoxResultFormat(encode_coco), ".voc": BoxResultFormat(encode_voc)}


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with these files; it appears with all of them, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        folder.chmod(0o755)
        os.replace(folder, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
