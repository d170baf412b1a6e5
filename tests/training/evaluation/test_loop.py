"""Scores against scikit-learn's, and the mean of several networks."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from reslab.training.evaluation.loop import evaluate_batches
from reslab.training.tasks.classification import Classification, ClassificationEvaluation, average_probabilities

NUM_SAMPLES, NUM_CLASSES = 137, 7


class Recited(nn.Module):
    """Answers sample i with row i, so that the outputs are known."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)
        self.norm = nn.BatchNorm1d(outputs.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return self.outputs[x[:, 0].long()]


def batches(labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for indices in torch.arange(len(labels)).split(size):
        yield indices[:, None].float(), labels[indices], indices


@pytest.fixture
def outputs() -> Tensor:
    return torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, NUM_CLASSES, (NUM_SAMPLES,), generator=torch.Generator().manual_seed(1))


def evaluation_of(outputs: Tensor, labels: Tensor, size: int = 32) -> ClassificationEvaluation:
    return evaluate_batches(Recited(outputs), batches(labels, size), task(outputs.shape[1]), keep_predictions=True)


def task(num_classes: int = NUM_CLASSES) -> Classification:
    return Classification(tuple(map(str, range(num_classes))))


def test_scores_are_scikit_learns(outputs: Tensor, labels: Tensor) -> None:
    evaluation = evaluation_of(outputs, labels)
    probabilities, called = outputs.double().softmax(1).numpy(), outputs.argmax(1).numpy()
    classes = list(range(NUM_CLASSES))
    assert evaluation.num_samples == NUM_SAMPLES
    assert evaluation.num_correct == metrics.accuracy_score(labels, called, normalize=False)
    assert evaluation.top1 == metrics.accuracy_score(labels, called)
    assert evaluation.top5 == metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    assert evaluation.loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=classes), rel=1e-6)
    assert np.array_equal(
        np.array(evaluation.confusion_matrix), metrics.confusion_matrix(labels, called, labels=classes)
    )
    assert isinstance(evaluation.num_correct, int)


def test_scores_do_not_depend_on_the_batch(outputs: Tensor, labels: Tensor) -> None:
    whole, single = evaluation_of(outputs, labels, 1000), evaluation_of(outputs, labels, 1)
    assert whole.confusion_matrix == single.confusion_matrix
    assert (whole.num_correct, whole.num_correct_top5) == (single.num_correct, single.num_correct_top5)
    assert whole.loss == pytest.approx(single.loss, rel=1e-6)


def test_top5_is_none_below_five_classes(labels: Tensor) -> None:
    assert evaluation_of(torch.randn(NUM_SAMPLES, 4), labels % 4).top5 is None
    assert evaluation_of(torch.randn(NUM_SAMPLES, 5), labels % 5).top5 == 1.0


def test_the_mode_comes_back_and_statistics_stay(outputs: Tensor, labels: Tensor) -> None:
    model = Recited(outputs).train()
    evaluate_batches(model, batches(labels, 32), task())
    assert model.training
    assert model.norm.training
    assert torch.equal(model.norm.running_mean, torch.zeros(NUM_CLASSES))


def test_the_average_is_that_of_the_probabilities(outputs: Tensor, labels: Tensor) -> None:
    other = outputs.flip(0) * 3
    result = average_probabilities([evaluation_of(outputs, labels), evaluation_of(other, labels)])
    mean = ((outputs.double().softmax(1) + other.double().softmax(1)) / 2).numpy()
    assert result.num_correct == metrics.accuracy_score(labels, mean.argmax(1), normalize=False)
    assert result.loss == pytest.approx(metrics.log_loss(labels, mean, labels=range(NUM_CLASSES)), rel=1e-5)
    assert result.probabilities is not None
    torch.testing.assert_close(result.probabilities, torch.from_numpy(mean).float())


def test_the_average_of_one_is_itself(outputs: Tensor, labels: Tensor) -> None:
    evaluation = evaluation_of(outputs, labels)
    assert average_probabilities([evaluation, evaluation]).confusion_matrix == evaluation.confusion_matrix


def test_what_cannot_be_averaged_is_refused(outputs: Tensor, labels: Tensor) -> None:
    evaluation = evaluation_of(outputs, labels)
    silent = evaluate_batches(Recited(outputs), batches(labels, 32), task())
    with pytest.raises(ValueError, match="kept their predictions"):
        average_probabilities([evaluation, silent])
    with pytest.raises(ValueError, match="same samples"):
        average_probabilities([evaluation, evaluation_of(outputs, labels.flip(0))])


def test_what_does_not_fit_is_refused(outputs: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match="one for each class"):
        evaluate_batches(Recited(outputs), batches(labels, 32), task(NUM_CLASSES + 1))
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate_batches(Recited(outputs), iter(()), task())


def test_a_custom_loss_is_averaged_over_samples(outputs: Tensor, labels: Tensor) -> None:
    def squared(evaluation: Tensor, y: Tensor) -> Tensor:
        return (evaluation - nn.functional.one_hot(y, NUM_CLASSES)).square().mean()

    evaluation = evaluate_batches(Recited(outputs), batches(labels, 50), task(), squared)
    assert evaluation.loss == pytest.approx(squared(outputs, labels).item(), rel=1e-6)
