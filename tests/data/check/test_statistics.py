"""`check_data` of labels of several classes and of values: counts, pairs, ranges and outliers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reslab.data.adapters import as_dataset
from reslab.data.check.check import DataCheck, FindingKind, Severity, check_data
from reslab.data.check.findings import list_findings
from reslab.data.check.statistics import count_class_pairs
from reslab.data.image_datasets import TensorImageDataset
from reslab.spec.task import TargetKind

NUM = 40
PIXELS = torch.randint(0, 256, (NUM, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
CLASSES = ("ant", "bee", "fly")


def multi_label(labels: torch.Tensor) -> DataCheck:
    return check_data(as_dataset((PIXELS, labels), task="multi-label", classes=CLASSES))


def regression(values: torch.Tensor, test: torch.Tensor | None = None) -> DataCheck:
    part = None if test is None else (PIXELS[: len(test)], test)
    return check_data(as_dataset((PIXELS, values), test=part, task="regression"))


def texts(check: DataCheck) -> dict[FindingKind, str]:
    return {finding.kind: finding.text for finding in list_findings(check)}


def test_classes_of_images_with_several() -> None:
    labels = torch.zeros(NUM, 3)
    labels[:30, 0], labels[20:35, 1], labels[:2, 2] = 1, 1, 1
    check = multi_label(labels)
    result = check.to_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["task"] == "multi-label"
    assert result["splits"]["train"] == {
        "num_images": NUM, "per_class": {"ant": 30, "bee": 15, "fly": 2}, "without_class": 5,
    }  # fmt: skip
    assert result["class_pairs"] == [
        {"classes": ["ant", "bee"], "num_images": 10}, {"classes": ["ant", "fly"], "num_images": 2},
    ]  # fmt: skip
    actual = texts(check)
    assert actual[FindingKind.NO_CLASS].startswith("Images without any class: 5 training;")
    assert "15 to 1: 30 images of ant, 2 of fly. Compare per-class metrics." in actual[FindingKind.IMBALANCE]
    assert [image.label for image in check.images][0:39:19] == ["ant, fly", "ant", "(no class)"]


def test_pairs_of_classes_are_counted() -> None:
    labels = (torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    pairs = {(pair.first, pair.second): pair for pair in count_class_pairs(labels, list("abcde"))}
    for a in range(5):
        for b in range(a + 1, 5):
            both = sum(bool(row[a] and row[b]) for row in labels.tolist())
            pair = pairs.get(("abcde"[a], "abcde"[b]))
            assert (pair.num_both if pair else 0) == both
            assert pair is None or (pair.num_first, pair.num_second) == (labels[:, a].sum(), labels[:, b].sum())


def test_classes_that_teach_nothing() -> None:
    labels = torch.zeros(NUM, 3)
    labels[:, 0], labels[:25, 1] = 1, 1
    assert "Every training image shows ant" in texts(multi_label(labels))[FindingKind.ALWAYS_SHOWN]
    labels[:, 0] = labels[:, 1]
    result = texts(multi_label(labels))
    assert "together or not at all: ant and bee" in result[FindingKind.NEVER_APART]
    assert FindingKind.ALWAYS_SHOWN not in result


def test_values_and_their_outliers() -> None:
    values = torch.arange(NUM).double()
    values[7] = 1000
    check = regression(values, test=torch.tensor([-3.0, 5.0]))
    summary = check.to_dict()["splits"]["train"]["values"]["value"]
    assert summary == {
        "mean": pytest.approx(np.mean(values.numpy())),
        "std": pytest.approx(np.std(values.numpy())),
        "min": 0.0,
        "max": 1000.0,
        "outliers": ["#7"],
    }
    result = texts(check)
    assert "value 1000 of #7" in result[FindingKind.OUTLIERS]
    assert "test value from -3 to 5, in training from 0 to 1000" in result[FindingKind.VALUE_RANGE]
    assert not any(check.counts.values())
    assert check.imbalance == 1


def test_values_without_a_spread() -> None:
    result = texts(regression(torch.full((NUM,), 2.0)))
    assert result[FindingKind.CONSTANT_VALUES] == (
        "All training images have the same value of value (2): there is nothing to learn."
    )
    mostly = torch.zeros(NUM)
    mostly[:3] = 5
    assert FindingKind.OUTLIERS not in texts(regression(mostly))


def test_identical_images_with_different_values_are_a_conflict() -> None:
    pixels = PIXELS.clone()
    pixels[1] = pixels[0]
    images = TensorImageDataset(pixels, torch.arange(NUM).float()[:, None], target_kind=TargetKind.VALUES)
    check = check_data(as_dataset(images))
    assert len(check.label_conflicts) == 1
    assert FindingKind.LABEL_CONFLICTS in texts(check)


def test_an_inferred_task_is_a_note(tmp_path: Path) -> None:
    for i in range(NUM):
        Image.fromarray(PIXELS[i].permute(1, 2, 0).numpy()).resize((40, 40)).save(tmp_path / f"{i}.png")
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(f"{i}.png,{i}.5" for i in range(NUM)))
    notes = {finding.kind: finding for finding in list_findings(check_data(tmp_path / "list.csv"))}
    assert notes[FindingKind.TASK].severity is Severity.NOTE
    assert "the task is regression" in notes[FindingKind.TASK].text
    assert FindingKind.TASK not in texts(check_data(tmp_path / "list.csv", task="regression"))
