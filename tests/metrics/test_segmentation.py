"""Metrics of segmentation, against a loop over pixels and scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from reslab.metrics import segmentation
from reslab.metrics.segmentation import VOID_LABEL, segmentation_confusion, segmentation_metrics


def make_masks(num_classes: int, shape: tuple[int, ...] = (3, 13, 17)) -> tuple[Tensor, Tensor]:
    """Predicted and true masks with void pixels; the last class is never true, the one before it nowhere at all."""
    generator = torch.Generator().manual_seed(num_classes)
    true = torch.randint(0, max(1, num_classes - 2), shape, generator=generator)
    predicted = torch.where(torch.rand(shape, generator=generator) < 0.7, true, num_classes - 1)
    true[torch.rand(shape, generator=generator) < 0.1] = VOID_LABEL
    predicted[predicted == VOID_LABEL] = 0
    return predicted, true


def count_pixel_by_pixel(predicted: Tensor, true: Tensor, num_classes: int) -> list[list[int]]:
    counts = [[0] * num_classes for _ in range(num_classes)]
    for guess, label in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True):
        if label != VOID_LABEL:
            counts[label][guess] += 1
    return counts


@pytest.mark.parametrize("num_classes", [1, 2, 5, 21])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_confusion_equals_a_loop_and_sklearn(num_classes: int, dtype: torch.dtype) -> None:
    predicted, true = make_masks(num_classes)
    confusion = segmentation_confusion(predicted.to(dtype), true.to(dtype), num_classes)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == count_pixel_by_pixel(predicted, true, num_classes)
    if num_classes > 1:  # scikit-learn warns of a single label
        kept = true != VOID_LABEL
        reference = sklearn_metrics.confusion_matrix(true[kept], predicted[kept], labels=list(range(num_classes)))
        np.testing.assert_array_equal(confusion.numpy(), reference)


@pytest.mark.parametrize("num_classes", [3, 5, 21])
def test_metrics_equal_sklearn(num_classes: int) -> None:
    predicted, true = make_masks(num_classes)
    kept = true != VOID_LABEL
    labels = list(range(num_classes))
    args = true[kept].numpy(), predicted[kept].numpy()
    result = segmentation_metrics(segmentation_confusion(predicted, true, num_classes))
    absent = [num_classes - 2]  # neither true nor predicted: sklearn gives 0 where reslab gives NaN
    iou = sklearn_metrics.jaccard_score(*args, labels=labels, average=None, zero_division=0.0)
    dice = sklearn_metrics.f1_score(*args, labels=labels, average=None, zero_division=np.nan)
    accuracy = sklearn_metrics.recall_score(*args, labels=labels, average=None, zero_division=np.nan)
    iou[absent] = math.nan
    np.testing.assert_allclose(result.iou, iou, rtol=1e-12)
    np.testing.assert_allclose(result.dice, dice, rtol=1e-12)
    np.testing.assert_allclose(result.accuracy, accuracy, rtol=1e-12)
    assert math.isnan(result.accuracy[-1])
    assert result.iou[-1] == 0
    for value, expected in (
        (result.mean_iou, np.nanmean(iou)),
        (result.mean_dice, np.nanmean(dice)),
        (result.mean_accuracy, np.nanmean(accuracy)),
        (result.pixel_accuracy, sklearn_metrics.accuracy_score(*args)),
        (result.frequency_weighted_iou, sklearn_metrics.jaccard_score(*args, average="weighted", zero_division=0.0)),
    ):
        assert value == pytest.approx(expected, rel=1e-12)


def test_confusions_add_up_over_parts_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, true = make_masks(5, (6, 31, 7))
    whole = segmentation_confusion(predicted, true, 5)
    parts = [segmentation_confusion(predicted[part], true[part], 5) for part in ([3, 0], [5], [1, 2, 4])]
    assert torch.equal(sum(parts), whole)
    monkeypatch.setattr(segmentation, "_CHUNK_PIXELS", 100)
    assert torch.equal(segmentation_confusion(predicted, true, 5), whole)


def test_metrics_follow_a_renaming_of_the_classes() -> None:
    predicted, true = make_masks(5)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    confusion = segmentation_confusion(predicted, true, 5)
    result, renamed = segmentation_metrics(confusion), segmentation_metrics(confusion[order][:, order])
    np.testing.assert_array_equal(renamed.iou, np.array(result.iou)[order])
    assert renamed.mean_iou == pytest.approx(result.mean_iou, rel=1e-14)
    assert renamed.frequency_weighted_iou == pytest.approx(result.frequency_weighted_iou, rel=1e-14)


def test_counts_beyond_the_integers_of_a_float_stay_exact() -> None:
    confusion = torch.tensor([[2**60 + 1, 1], [0, 2**60]])
    assert segmentation_metrics(confusion + confusion).num_pixels == (2**61 + 4, 2**61)


def test_masks_of_void_alone_have_no_metrics() -> None:
    void = torch.full((4, 4), VOID_LABEL)
    result = segmentation_metrics(segmentation_confusion(torch.zeros_like(void), void, 3))
    assert math.isnan(result.mean_iou)
    assert math.isnan(result.pixel_accuracy)
    assert math.isnan(result.frequency_weighted_iou)


def test_void_is_another_label_or_none() -> None:
    predicted, true = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    assert segmentation_confusion(predicted, true, 2, void_label=0).tolist() == [[0, 0], [0, 1]]
    with pytest.raises(ValueError, match="true masks from 0 to 1; got: 255"):
        segmentation_confusion(predicted, torch.tensor([0, 255, 1]), 2, void_label=None)


@pytest.mark.parametrize(
    ("predicted", "true", "message"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), r"one shape; got: \(2, 3\) and \(3, 2\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), "predicted masks of an integer type; got: torch.float32"),
        (torch.tensor([0, 7]), torch.tensor([0, 1]), "predicted masks from 0 to 2; got: 7"),
        (torch.tensor([0, 0]), torch.tensor([-1, 3]), "true masks from 0 to 2; got: -1, 3"),
    ],
)
def test_bad_masks_are_errors(predicted: Tensor, true: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmentation_confusion(predicted, true, 3)


@pytest.mark.parametrize("confusion", [torch.zeros(2, 3).long(), torch.zeros(2, 2), torch.tensor([[1, -1], [0, 1]])])
def test_a_bad_confusion_is_an_error(confusion: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(C, C\)"):
        segmentation_metrics(confusion)
