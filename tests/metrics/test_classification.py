"""Per-class metrics from a confusion matrix, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from reslab.metrics.classification import macro_average, most_confused_pairs, per_class_metrics, wilson_interval


@pytest.mark.parametrize("num_classes", [2, 7, 40])
def test_scores_equal_sklearn(num_classes: int) -> None:
    random = np.random.default_rng(num_classes)
    # The last class is never true and the one before never predicted: both have undefined metrics.
    true = random.integers(0, max(1, num_classes - 1), 300)
    predicted = np.where(random.random(300) < 0.6, true, random.integers(0, num_classes, 300))
    predicted[predicted == num_classes - 2] = 0
    labels = list(range(num_classes))
    confusion = confusion_matrix(true, predicted, labels=labels).tolist()
    scores = per_class_metrics(confusion, [str(label) for label in labels])
    expected = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=np.nan)
    for field, values in zip(("precision", "recall", "f1", "num_samples"), expected, strict=True):
        np.testing.assert_allclose([getattr(score, field) for score in scores], values, rtol=1e-12)
    means = precision_recall_fscore_support(true, predicted, labels=labels, average="macro", zero_division=np.nan)
    for field, mean in zip(("precision", "recall", "f1"), means[:3], strict=True):
        np.testing.assert_allclose(macro_average([getattr(score, field) for score in scores]), mean, rtol=1e-12)


def test_pairs_are_sorted_by_count_then_by_fraction() -> None:
    pairs = most_confused_pairs([[5, 2, 0], [3, 40, 2], [2, 0, 8]], ["a", "b", "c"], max_pairs=3)
    assert [(pair.true_class, pair.predicted_class, pair.count) for pair in pairs] == [
        ("b", "a", 3),
        ("a", "b", 2),
        ("c", "a", 2),
    ]


def test_pairs_can_leave_out_the_background() -> None:
    pairs = most_confused_pairs([[5, 2, 9], [3, 40, 2], [7, 0, 0]], ["a", "b", "background"], num_classes=2)
    assert [(pair.true_class, pair.predicted_class, pair.count, pair.num_samples) for pair in pairs] == [
        ("b", "a", 3, 45),
        ("a", "b", 2, 16),
    ]


def test_a_matrix_that_does_not_fit_the_classes_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 rows and columns"):
        per_class_metrics([[1, 0], [0, 1]], ["a", "b", "c"])


def test_wilson_interval_is_that_of_the_textbook() -> None:
    # Newcombe 1998, Statistics in Medicine 17: 857-872, Table I, method 3 (score, no continuity correction).
    for num_correct, num_samples, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ):
        np.testing.assert_allclose(wilson_interval(num_correct, num_samples), (low, high), atol=5e-5)
    assert wilson_interval(50, 50)[1] == 1.0
