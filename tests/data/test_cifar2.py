"""The book's two classes: which pictures of CIFAR-10 they are, in which order, under which names."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from reslab.data.image_datasets import TensorImages
from reslab.data.registry import DATA_SETS, open_data

LABELS = [0, 3, 2, 2, 9, 0, 1, 2]


def write_cifar10(folder: Path) -> Path:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        data = np.full((len(LABELS), 3072), 10 * k, np.uint8) + np.arange(len(LABELS), dtype=np.uint8)[:, None]
        (inner / name).write_bytes(pickle.dumps({"data": data, "labels": LABELS}))
    return inner


@pytest.mark.parametrize("place", [".", "cifar10"])
def test_airplanes_and_birds_relabelled(tmp_path: Path, place: str) -> None:
    write_cifar10(tmp_path / place)
    data, whole = open_data("cifar2", tmp_path), open_data("cifar10", tmp_path)
    assert (data.name, data.classes, data.held_out) == ("cifar2", ("airplane", "bird"), "test")
    for split, num in (("train", 5), ("test", 1)):
        found, every = data.splits[split], whole.splits[split]
        assert isinstance(found, TensorImages)
        assert isinstance(every, TensorImages)
        chosen = [i for i, label in enumerate(every.labels.tolist()) if label in (0, 2)]
        assert torch.equal(found.images, every.images[chosen])
        assert found.labels.tolist() == [0, 1, 1, 0, 1] * num
    assert data.preprocess.mean == (0.4915, 0.4823, 0.4468)
    assert data.preprocess.std == (0.2470, 0.2435, 0.2616)
    assert "Stevens" in DATA_SETS["cifar2"].source


def test_other_orders_of_classes_and_a_validation_part(tmp_path: Path) -> None:
    inner = write_cifar10(tmp_path)
    names = ["bird", "x", "airplane", *(f"y{k}" for k in range(7))]
    (inner / "classes.txt").write_text("\n".join(names))
    data = open_data("cifar2", tmp_path, val_fraction=0.4)
    assert sorted(data.splits) == ["test", "train", "val"]
    assert data.splits["test"].labels.tolist() == [1, 0, 0, 1, 0]
    again = open_data("cifar2", tmp_path, split_record=data.split_record)
    assert again.fingerprint == data.fingerprint
