"""Answers written to files and read back."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reslab.training.evaluation.prediction_files import check_predictions_path, save_predictions
from reslab.training.tasks.classification import ClassificationEvaluation

CLASSES = ("cat", 'a "big", dog')


def evaluation(keep: bool = True) -> ClassificationEvaluation:
    probabilities, labels = torch.tensor([[0.75, 0.25], [0.1, 0.9], [0.6, 0.4]]), torch.tensor([0, 1, 1])
    names = ("x.png", "y, z.png", "w.png")
    return ClassificationEvaluation(
        num_samples=3,
        num_correct=2,
        num_correct_top5=None,
        loss=0.1,
        confusion_matrix=((1, 0), (1, 1)),
        split="test",
        probabilities=probabilities if keep else None,
        labels=labels if keep else None,
        names=names if keep else (),
        classes=CLASSES if keep else (),
    )


def test_csv_is_read_back(tmp_path: Path) -> None:
    save_predictions(tmp_path / "a.csv", evaluation())
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["x.png", "y, z.png", "w.png"]
    assert [(row["class"], row["predicted"]) for row in rows] == [
        ("cat", "cat"),
        (CLASSES[1], CLASSES[1]),
        (CLASSES[1], "cat"),
    ]
    assert [float(row["probability"]) for row in rows] == pytest.approx([0.75, 0.9, 0.6], rel=1e-6)
    assert [float(row[f"p({CLASSES[1]})"]) for row in rows] == pytest.approx([0.25, 0.9, 0.4], rel=1e-6)


def test_npz_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    result = evaluation()
    assert result.probabilities is not None
    assert result.labels is not None
    save_predictions(tmp_path / "a.npz", result)
    read = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert np.array_equal(read["probabilities"], result.probabilities.numpy())
    assert np.array_equal(read["labels"], result.labels.numpy())
    assert read["names"].tolist() == ["x.png", "y, z.png", "w.png"]
    assert tuple(read["classes"].tolist()) == CLASSES


def test_another_ending_and_missing_probabilities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.csv or \.npz.*nearest valid: a\.csv"):
        check_predictions_path(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="kept its predictions"):
        save_predictions(tmp_path / "a.csv", evaluation(keep=False))
    with pytest.raises(ValueError, match=r"\.csv or \.npz .* of the task classification.*nearest valid: a\.csv"):
        save_predictions(tmp_path / "a.json", evaluation())
    assert list(tmp_path.iterdir()) == []


def test_names_and_classes_that_are_formulas_are_made_harmless(tmp_path: Path) -> None:
    formulas = replace(evaluation(), names=("=cmd|x", "+1.png", "w.png"), classes=("=evil()", "-0.5"))
    save_predictions(tmp_path / "a.csv", formulas)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["'=cmd|x", "'+1.png", "w.png"]
    assert [row["class"] for row in rows] == ["'=evil()", "-0.5", "-0.5"]
