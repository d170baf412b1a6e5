"""Multi-label classification against torch and scikit-learn, and a run from training to its saved thresholds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor
from torch.nn import functional

from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetSplits
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.spec.recipe import Recipe
from reslab.training.checkpoint import load_run_network
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.tasks.multilabel import MultiLabel, positive_weights
from reslab.training.train import train

pytestmark = pytest.mark.real_plots

CLASSES = ("left", "right", "both")
MODEL = "resnet20_cifar"


def make_images(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright left half, right half, or both; the third class is present where both are."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (num_images, 1, 8, 8), generator=generator, dtype=torch.uint8)
    sides = torch.rand(num_images, 2, generator=generator) < 0.5
    images[..., :4] += 120 * sides[:, 0, None, None, None].to(torch.uint8)
    images[..., 4:] += 120 * sides[:, 1, None, None, None].to(torch.uint8)
    labels = torch.cat((sides, sides.all(1, keepdim=True)), 1).float()
    return images, labels


@pytest.fixture(scope="module")
def data() -> DatasetSplits:
    parts = [make_images(count, seed) for seed, count in enumerate((128, 48, 48))]
    return as_dataset(*parts, classes=CLASSES)


@pytest.fixture(scope="module")
def run_path(data: DatasetSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "labels"
    return train(MODEL, data, output=path, overrides={"model.depths": "1,1,1", "duration": "3 epochs"}).path


def logits_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(40, 3, generator=generator) < 0.4).float()
    return torch.randn(40, 3, generator=generator) + labels, labels


def test_the_scores_are_scikit_learns() -> None:
    logits, labels = logits_and_labels()
    thresholds = (0.4, 0.5, 0.7)
    result = MultiLabel(CLASSES, thresholds).evaluate([(logits[:30], labels[:30]), (logits[30:], labels[30:])], 0.5)
    probabilities, y = logits.sigmoid().numpy(), labels.numpy().astype(int)
    predicted = (probabilities.astype(float) >= np.array(thresholds)).astype(int)
    assert result.map == pytest.approx(metrics.average_precision_score(y, probabilities, average="macro"), rel=1e-6)
    assert result.f1_micro == pytest.approx(metrics.f1_score(y, predicted, average="micro"))
    assert result.f1_macro == pytest.approx(metrics.f1_score(y, predicted, average="macro"))
    assert result.exact_match == pytest.approx(metrics.accuracy_score(y, predicted))
    matrices = metrics.multilabel_confusion_matrix(y, predicted)
    assert [row[0] for row in result.confusion] == [matrix[1, 1] for matrix in matrices]


def test_the_thresholds_of_validation_have_the_highest_f1() -> None:
    logits, labels = logits_and_labels()
    task = MultiLabel(CLASSES)
    fitted = task.fitted_to(task.evaluate([(logits, labels)], 0.5, "val", keep_predictions=True))
    probabilities = logits.sigmoid().double()
    for k, threshold in enumerate(fitted.thresholds):
        scores = [
            metrics.f1_score(labels[:, k], probabilities[:, k] >= value) for value in probabilities[:, k].tolist()
        ]
        assert metrics.f1_score(labels[:, k], probabilities[:, k] >= threshold) == pytest.approx(max(scores))
    assert MultiLabel.from_dict(json.loads(json.dumps(fitted.to_dict())), CLASSES) == fitted


@pytest.mark.parametrize("num_classes", [1, 3])
def test_labels_are_smoothed_between_their_two_values(num_classes: int, data: DatasetSplits) -> None:
    """As Keras's BinaryCrossentropy(label_smoothing=0.2): t (1 - 0.2) + 0.2 / 2, whatever the number of classes."""
    logits, labels = (tensor[:, :num_classes] for tensor in logits_and_labels())
    loss = MultiLabel(CLASSES[:num_classes]).build_loss(Recipe("", "", loss="bce", label_smoothing=0.2), data, "cpu")
    p = logits.double().sigmoid()
    expected = -(torch.where(labels > 0, 0.9, 0.1) * p.log() + torch.where(labels > 0, 0.1, 0.9) * (1 - p).log()).mean()
    assert float(loss(logits, labels)) == pytest.approx(float(expected), rel=1e-5)


def test_class_weights_are_torchs_weights_of_positives(data: DatasetSplits) -> None:
    logits, labels = (tensor.double() for tensor in logits_and_labels())
    task, train_labels = MultiLabel(CLASSES), data.split("train").labels
    counts = train_labels.double().sum(0)
    expected = (len(train_labels) - counts) / counts
    torch.testing.assert_close(positive_weights("balanced", train_labels, CLASSES), expected)
    loss = task.build_loss(Recipe("", "", loss="bce", class_weights="balanced"), data, "cpu")
    outputs, reference = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss(outputs, labels).backward()
    weights = expected.float().double()
    functional.binary_cross_entropy_with_logits(reference, labels, pos_weight=weights).backward()
    torch.testing.assert_close(outputs.grad, reference.grad, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="3 numbers"):
        positive_weights("1,2", train_labels, CLASSES)
    with pytest.raises(ValueError, match="'both'"):
        positive_weights("balanced", torch.tensor([[1.0, 1.0, 0.0]]), CLASSES)


def test_a_run_learns_and_keeps_its_thresholds(run_path: Path, data: DatasetSplits) -> None:
    metadata = json.loads((run_path / "run.json").read_text())
    assert metadata["task"]["name"] == "multi-label"
    assert len(metadata["task"]["thresholds"]) == 3
    assert read_header(run_path / "model.safetensors")["task"] == metadata["task"]
    assert load_run_network(run_path).task == metadata["task"]
    assert metadata["recipe"]["loss"] == "bce"
    evaluation = evaluate(run_path, data)
    assert evaluation.to_dict() == {name: metadata["result"][name] for name in evaluation.to_dict()}
    assert evaluation.thresholds == tuple(metadata["task"]["thresholds"])
    best = max(
        (json.loads(line) for line in (run_path / "log.jsonl").read_text().splitlines()),
        key=lambda record: record.get("map", -1) if record["kind"] == "eval" else -1,
    )
    assert metadata["result"]["best_step"] == best["step"]
    report = (run_path / "report.html").read_text()
    assert "Metrics of each class" in report
    assert "precision-recall" in report


def test_a_run_that_goes_on_after_its_end_equals_one_that_was_as_long(data: DatasetSplits, tmp_path: Path) -> None:
    """The thresholds of its first end are none of the weights that follow; its metrics have those of the second."""
    options = {"model.depths": "1,1,1", "batch_size": "64", "eval_train": "true"}
    durations = {"long": ("2 epochs",), "continued": ("1 epoch", "2 epochs")}
    runs = {}
    for name, parts in durations.items():
        for part in parts:
            overrides = {**options, "duration": part}
            runs[name] = train(MODEL, data, output=tmp_path / name, resume=part != parts[0], overrides=overrides)
    logs = [
        [(line["step"], line["f1_micro"]) for line in run.log.records() if line["kind"] == "eval"]
        for run in runs.values()
    ]
    assert logs[0] == logs[1]
    run = runs["continued"]
    assert run.metadata["task"] == runs["long"].metadata["task"]
    assert run.result["train_f1_micro"] == evaluate(run, data, split="train").f1_micro
    assert run.result["val_metrics"]["f1_micro"] == evaluate(run, data, split="val").f1_micro


def test_an_ensemble_averages_probabilities(run_path: Path, data: DatasetSplits) -> None:
    single = evaluate(run_path, data, keep_predictions=True)
    double = evaluate([run_path, run_path], data)
    assert double.metrics == pytest.approx(single.metrics, rel=1e-5)
    assert len(double.members) == 2


def test_what_does_not_suit_the_task_is_an_error(data: DatasetSplits, tmp_path: Path) -> None:
    for overrides, message in (
        ({"loss": "cross-entropy"}, "bce"),
        ({"early_stopping.metric": "mae"}, "metric of the task multi-label"),
    ):
        with pytest.raises(ValueError, match=message):
            train(MODEL, data, output=tmp_path / "run", overrides=overrides)
    with pytest.raises(ValueError, match="task regression"):
        train(MODEL, data, task="regression", output=tmp_path / "run")
