"""Metrics of multi-label classification, against scikit-learn's."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from reslab.metrics.multilabel import (
    average_precision,
    best_f1_thresholds,
    count_exact_matches,
    label_confusion,
    label_metrics,
    macro_averaged,
    mean_average_precision,
    micro_averaged,
    precision_recall_curves,
    predict_labels,
)

NUM_CLASSES = 6
CASES = [(1, 0), (2, 1), (57, 1), (57, 2), (400, 3), (400, 6)]  # samples, decimals of the scores: few make ties


def make_case(num_samples: int, decimals: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Make rounded scores, many of them equal; the last class has no positive, the first no negative."""
    generator = torch.Generator().manual_seed(num_samples + decimals)
    targets = torch.rand(num_samples, NUM_CLASSES, generator=generator) < torch.linspace(0.1, 0.7, NUM_CLASSES)
    targets[:, 0], targets[:, -1] = True, False
    scores = 0.4 * targets + 0.6 * torch.rand(num_samples, NUM_CLASSES, generator=generator)
    return scores.round(decimals=decimals).to(dtype), targets


def sklearn_without_warnings(function: str, *args: object, **options: object) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(sklearn_metrics, function)(*args, **options)


@pytest.mark.parametrize(("num_samples", "decimals"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_average_precision_equals_sklearn(num_samples: int, decimals: int, dtype: torch.dtype) -> None:
    scores, targets = make_case(num_samples, decimals, dtype)
    result = average_precision(scores, targets)
    expected = []
    for index in range(NUM_CLASSES):
        if targets[:, index].any():
            args = targets[:, index].numpy(), scores[:, index].double().numpy()
            expected.append(sklearn_metrics.average_precision_score(*args))
        else:
            expected.append(math.nan)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert math.isnan(result[-1])
    assert mean_average_precision(scores, targets) == pytest.approx(np.nanmean(expected), rel=1e-12)


@pytest.mark.parametrize(("num_samples", "decimals"), CASES)
def test_curves_equal_sklearn(num_samples: int, decimals: int) -> None:
    scores, targets = make_case(num_samples, decimals, torch.float64)
    for index, curve in enumerate(precision_recall_curves(scores, targets)):
        args = targets[:, index].numpy(), scores[:, index].numpy()
        precision, recall, thresholds = sklearn_without_warnings("precision_recall_curve", *args)
        np.testing.assert_allclose(curve.precision, precision, rtol=1e-14)
        np.testing.assert_array_equal(curve.thresholds, thresholds)
        if targets[:, index].any():
            np.testing.assert_allclose(curve.recall, recall, rtol=1e-14)
        else:
            assert all(map(math.isnan, curve.recall[:-1]))


@pytest.mark.parametrize(("num_samples", "decimals"), CASES[:4])
def test_thresholds_are_the_highest_of_the_best_f1(num_samples: int, decimals: int) -> None:
    scores, targets = make_case(num_samples, decimals)
    thresholds = best_f1_thresholds(scores, targets, default=0.25)
    for index, threshold in enumerate(thresholds.tolist()):
        candidates = sorted(set(scores[:, index].tolist()), reverse=True)
        f1 = [
            sklearn_metrics.f1_score(targets[:, index], scores[:, index] >= candidate, zero_division=0.0)
            for candidate in candidates
        ]
        expected = candidates[int(np.argmax(f1))] if targets[:, index].any() else 0.25
        assert threshold == expected
    counts = label_confusion(predict_labels(scores, thresholds), targets)
    assert macro_averaged(counts).f1 >= macro_averaged(label_confusion(predict_labels(scores, 0.5), targets)).f1 - 1e-12


@pytest.mark.parametrize(("num_samples", "decimals"), CASES)
def test_label_metrics_equal_sklearn(num_samples: int, decimals: int) -> None:
    scores, targets = make_case(num_samples, decimals)
    predictions = predict_labels(scores, 0.5)
    counts = label_confusion(predictions, targets)
    tn, fp, fn, tp = sklearn_metrics.multilabel_confusion_matrix(targets, predictions).reshape(-1, 4).T
    np.testing.assert_array_equal(counts.numpy(), np.stack([tp, fp, fn, tn], 1))
    per_class = label_metrics(counts, tuple("abcdef"))
    options = {"zero_division": np.nan}
    expected = sklearn_without_warnings("precision_recall_fscore_support", targets, predictions, **options)
    for field, values in zip(("precision", "recall", "f1", "num_samples"), expected, strict=True):
        np.testing.assert_allclose([getattr(one, field) for one in per_class], values, rtol=1e-12)
    for average, result in (("micro", micro_averaged(counts)), ("macro", macro_averaged(counts))):
        expected = sklearn_without_warnings(
            "precision_recall_fscore_support", targets, predictions, average=average, **options
        )
        np.testing.assert_allclose([result.precision, result.recall, result.f1], expected[:3], rtol=1e-12)
    expected_matches = sklearn_metrics.accuracy_score(targets, predictions, normalize=False)
    assert count_exact_matches(predictions, targets) == expected_matches


def test_results_do_not_depend_on_the_order_and_counts_add_up() -> None:
    scores, targets = make_case(400, 1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    # Tuples are compared by repr, so that NaN equals NaN.
    assert repr(average_precision(scores, targets)) == repr(average_precision(scores[order], targets[order]))
    assert repr(precision_recall_curves(scores, targets)) == repr(
        precision_recall_curves(scores[order], targets[order])
    )
    assert torch.equal(best_f1_thresholds(scores, targets), best_f1_thresholds(scores[order], targets[order]))
    predictions = predict_labels(scores, 0.5)
    parts = [(predictions[part], targets[part]) for part in order.tensor_split(3)]
    assert torch.equal(sum(label_confusion(*part) for part in parts), label_confusion(predictions, targets))
    assert sum(count_exact_matches(*part) for part in parts) == count_exact_matches(predictions, targets)


def test_of_equal_f1_the_highest_threshold_is_taken() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    targets = torch.tensor([[1], [0], [0], [1]])  # F1 2/3 for one prediction, and 4/6 for four
    assert best_f1_thresholds(scores, targets).item() == scores[0].double().item()


def test_thresholds_in_float64_separate_scores_that_float32_cannot() -> None:
    scores = torch.tensor([[0.5], [0.5 + 1e-12]], dtype=torch.float64)
    thresholds = best_f1_thresholds(scores, torch.tensor([[0], [1]]))
    assert predict_labels(scores, thresholds).tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), r"one shape; got: \(3, 2\) and \(3, 4\)"),
        (torch.zeros(3), torch.zeros(3), r"shape \(N, K\).*unsqueeze"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "N, K >= 1"),
        (
            torch.tensor([[0.0, math.nan]]),
            torch.zeros(1, 2),
            r"finite scores; got: 1 NaN .* at \[0, 1\]",
        ),
        (torch.zeros(2, 2), torch.tensor([[0, 2], [1, 0]]), "targets of 0 and 1; got: 2"),
    ],
)
def test_bad_input_is_an_error(scores: Tensor, targets: Tensor, message: str) -> None:
    for function in (average_precision, precision_recall_curves, best_f1_thresholds):
        with pytest.raises(ValueError, match=message):
            function(scores, targets)


def test_bad_predictions_counts_and_thresholds_are_errors() -> None:
    with pytest.raises(ValueError, match=r"predictions of 0 and 1; got: 0\.5"):
        label_confusion(torch.full((2, 2), 0.5), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="2 thresholds, one a class"):
        predict_labels(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(C, 4\)"):
        macro_averaged(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 rows, one a class"):
        label_metrics(torch.zeros(2, 4, dtype=torch.int64), ("a", "b", "c"))
