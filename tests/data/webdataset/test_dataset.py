"""Labels of several classes or of numbers in shards: which task they suit, and an error for bad ones."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reslab.data.registry import list_dataset, open_dataset


def write_shard(folder: Path, labels: list[Any], extension: str, size: tuple[int, int] = (80, 70)) -> None:
    """Write images with their labels, KEY.png beside KEY.extension."""
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, label in enumerate(labels):
            pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "png")
            for name, content in ((f"{i}.png", stream.getvalue()), (f"{i}.{extension}", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("labels", "extension", "task", "classes", "expected"),
    [
        (['{"label": ["bee", "ant"]}', '{"label": []}', '{"labels": ["ant"]}'], "json", "multi-label", ("ant", "bee"),
         [[1, 1], [0, 0], [1, 0]]),
        (['{"label": [0, 2]}', '{"label": [1]}', '{"label": [2, 1]}'], "json", "multi-label", ("0", "1", "2"),
         [[1, 0, 1], [0, 1, 0], [0, 1, 1]]),
        (['{"label": [1, 0, 1]}', '{"label": [0, 0, 0]}', '{"label": [1, 1, 1]}'], "json", "multi-label",
         ("label 0", "label 1", "label 2"), [[1, 0, 1], [0, 0, 0], [1, 1, 1]]),
        (['{"label": 0.5}', '{"label": 2}', '{"label": -1.25}'], "json", "regression", ("label",),
         [[0.5], [2], [-1.25]]),
        (["1 2.5", "3 4", "0 0"], "txt", "regression", ("label 0", "label 1"), [[1, 2.5], [3, 4], [0, 0]]),
        (["ant|bee", "bee", "ant"], "txt", "multi-label", ("ant", "bee"), [[1, 1], [0, 1], [1, 0]]),
        (["0.25", "1.5", "2"], "cls", "regression", ("label",), [[0.25], [1.5], [2]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(80, 70), (6, 6)])
def test_labels_of_other_tasks(
    tmp_path: Path, labels: list[str], extension: str, task: str, classes: tuple[str, ...], expected: Any, size: Any
) -> None:
    write_shard(tmp_path, labels, extension, size)
    data = open_dataset(tmp_path, val_fraction=0.34)
    assert (data.task, data.classes) == (task, classes)
    result = {images.name(i): images.labels[i].tolist() for images in data.splits.values() for i in range(len(images))}
    assert [result[f"0.tar/{i}.png"] for i in range(3)] == expected
    again = open_dataset(tmp_path, split_record=json.loads(json.dumps(data.split_record)))
    assert (again.task, again.fingerprint) == (task, data.fingerprint)
    listing = list_dataset(tmp_path)
    assert (listing.task, listing.classes) == (task, classes)


def test_a_list_of_classes_names_the_columns_of_shards(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ant\nbee\nfly\n")
    write_shard(tmp_path, ['{"label": [0, 2]}', '{"label": ["bee"]}', '{"label": []}'], "json")
    data = open_dataset(tmp_path, val_fraction=0.34)
    assert data.classes == ("ant", "bee", "fly")
    write_shard(tmp_path, ['{"label": [0, 2]}', '{"label": ["be"]}', '{"label": []}'], "json")
    with pytest.raises(ValueError, match=r"classes of the list \(ant, bee, fly\) in 0.tar/1.png; got: 'be'; nearest"):
        open_dataset(tmp_path)


def test_integers_in_shards_are_regression_targets_if_the_task_requires_it(tmp_path: Path) -> None:
    write_shard(tmp_path, [3, 17, 250], "cls")
    data = open_dataset(tmp_path, task="regression", val_fraction=0.34)
    assert sorted(float(label) for images in data.splits.values() for label in images.labels) == [3, 17, 250]
    write_shard(tmp_path, [3, "ant", 250], "cls")
    with pytest.raises(ValueError, match=r"a number in the column label in 0.tar/1.png; got: 'ant'"):
        open_dataset(tmp_path, task="regression")
