"""Regression against scikit-learn, and a run from training to predictions in the unit of the targets."""

import json
from pathlib import Path

import pytest
import torch
from sklearn import metrics
from torch import Tensor
from torch.nn import functional

from reslab.cli.evaluation_report import ensemble_rows
from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetSplits
from reslab.deploy.predict import predict
from reslab.nn.checkpoints.safetensors_io import read_header
from reslab.spec.recipe import Recipe
from reslab.training.checkpoint import load_run_network
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.evaluation.prediction_files import save_predictions
from reslab.training.tasks.regression import Regression
from reslab.training.train import train

pytestmark = pytest.mark.real_plots

TARGETS = ("dots", "shade")
MODEL = "resnet20_cifar"


def make_images(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images with a number of white dots on a gray ground: labels 100 + 10 dots, and the gray value."""
    generator = torch.Generator().manual_seed(seed)
    dots = torch.randint(0, 9, (num_images,), generator=generator)
    shade = torch.randint(0, 100, (num_images,), generator=generator)
    images = shade.to(torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    for image, count in zip(images, dots.tolist(), strict=True):
        image.view(-1)[torch.randperm(64, generator=generator)[:count]] = 255
    return images, torch.stack((100.5 + 10 * dots, shade), 1).float()


@pytest.fixture(scope="module")
def data() -> DatasetSplits:
    parts = [make_images(count, seed) for seed, count in enumerate((128, 48, 48))]
    return as_dataset(*parts, classes=TARGETS, task="regression")


@pytest.fixture(scope="module")
def run_path(data: DatasetSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "dots"
    return train(MODEL, data, output=path, overrides={"model.depths": "1,1,1", "duration": "3 epochs"}).path


def test_the_scores_are_scikit_learns_in_the_unit_of_the_targets(data: DatasetSplits) -> None:
    task, labels = Regression.for_data(data), data.split("test").labels
    outputs = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(0))
    result = task.evaluate([(outputs[:20], labels[:20]), (outputs[20:], labels[20:])], 0.5, keep_predictions=True)
    train_labels = data.split("train").labels.double()
    predicted = outputs.double() * train_labels.std(0, correction=0) + train_labels.mean(0)
    torch.testing.assert_close(result.predicted, predicted, rtol=1e-12, atol=0)
    assert result.mae == pytest.approx(metrics.mean_absolute_error(labels, predicted))
    rmse = [metrics.root_mean_squared_error(labels[:, k], predicted[:, k]) for k in (0, 1)]
    assert result.rmse == pytest.approx(sum(rmse) / 2)
    assert result.r2 == pytest.approx(metrics.r2_score(labels, predicted))


@pytest.mark.parametrize(
    ("name", "reference"),
    [("mse", functional.mse_loss), ("mae", functional.l1_loss), ("huber(1)", functional.smooth_l1_loss)],
)
def test_the_losses_are_torchs_of_standardized_values(name: str, reference: object, data: DatasetSplits) -> None:
    task, labels = Regression.for_data(data), data.split("train").labels[:16].double()
    loss = task.build_loss(Recipe("", "", loss=str(name)), data, "cpu")
    outputs = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    standardized = (labels - torch.tensor(task.mean)) / torch.tensor(task.std)
    (first, second) = loss(ours, labels), reference(theirs, standardized)  # type: ignore[operator]
    first.backward()
    second.backward()
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_outputs_of_another_shape_are_an_error_and_not_repeated(data: DatasetSplits) -> None:
    loss = Regression(("dots",), (0.0,), (1.0,)).default_loss()
    for outputs in (torch.zeros(16, 10), torch.zeros(16)):
        with pytest.raises(ValueError, match=r"the shape of the targets, \(16, 1\)"):
            loss(outputs, torch.zeros(16, 1))


def test_a_run_learns_and_is_evaluated_from_its_file(run_path: Path, data: DatasetSplits, tmp_path: Path) -> None:
    metadata = json.loads((run_path / "run.json").read_text())
    task = metadata["task"]
    assert (task["name"], len(task["mean"]), len(task["std"])) == ("regression", 2, 2)
    assert read_header(run_path / "model.safetensors")["task"] == task
    evaluation = evaluate(run_path / "model.safetensors", data, keep_predictions=True)
    assert evaluation.to_dict() == {name: metadata["result"][name] for name in evaluation.to_dict()}
    always_mean = (data.split("test").labels - torch.tensor(task["mean"])).abs().mean()
    assert evaluation.mae < 0.9 * always_mean
    save_predictions(tmp_path / "a.csv", evaluation)
    header, first = (tmp_path / "a.csv").read_text().splitlines()[:2]
    assert header == "name,dots,predicted dots,shade,predicted shade"
    assert float(first.split(",")[1]) == float(data.split("test").labels[0, 0])
    assert "Predicted against true values" in (run_path / "report.html").read_text()


def test_a_resumed_run_equals_an_uninterrupted_one(run_path: Path, data: DatasetSplits, tmp_path: Path) -> None:
    def stop(step: int, model: object) -> dict[str, float]:
        raise RuntimeError(f"at step {step}")

    options = {"output": tmp_path / "run", "overrides": {"model.depths": "1,1,1", "duration": "3 epochs"}}
    with pytest.raises(RuntimeError, match="at step 3"):
        train(MODEL, data, on_step_end=stop, hook_every_steps=3, **options)  # type: ignore[arg-type]
    train(MODEL, data, resume=True, **options)  # type: ignore[arg-type]
    files = [folder / "model.safetensors" for folder in (run_path, tmp_path / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_ensemble_averages_values_and_its_loss_is_comparable_with_its_members(
    run_path: Path, data: DatasetSplits
) -> None:
    alone = evaluate(run_path, data, keep_predictions=True)
    both = evaluate([run_path, run_path], data)
    torch.testing.assert_close(both.predicted, alone.predicted)
    assert both.loss == pytest.approx(alone.loss, rel=1e-5)
    std = json.loads((run_path / "run.json").read_text())["task"]["std"]
    expected = functional.mse_loss(alone.predicted / torch.tensor(std), alone.labels / torch.tensor(std))
    assert both.loss == pytest.approx(float(expected), rel=1e-5)
    assert dict(ensemble_rows(both, ["a", "b"]))["ensemble"] == "mean values of 2 runs"


def test_equal_targets_have_no_r2_and_do_not_divide_by_zero(data: DatasetSplits) -> None:
    images, labels = make_images(8, 0)
    constant = as_dataset((images, labels * 0 + 3.5), task="regression", classes=TARGETS, val_fraction=None)
    task = Regression.for_data(constant)
    assert task.std == (1.0, 1.0)
    result = task.evaluate([(torch.zeros(4, 2), torch.full((4, 2), 3.5))], 0.0)
    assert result.mae == 0
    assert result.r2 is None


def test_class_weights_are_refused(data: DatasetSplits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class_weights"):
        train(MODEL, data, output=tmp_path / "run", overrides={"class_weights": "balanced"})


def test_weights_saved_by_an_evaluation_predict_in_the_unit_of_the_targets(
    run_path: Path, data: DatasetSplits, tmp_path: Path
) -> None:
    network = load_run_network(run_path)
    network.task = None  # as of weights of others
    evaluation = evaluate(network, data, save_weights=tmp_path / "saved.safetensors", keep_predictions=True)
    images = data.split("test").images
    row = predict(tmp_path / "saved.safetensors", images[0])[0]
    assert row.values == pytest.approx(dict(zip(TARGETS, evaluation.predicted[0].tolist(), strict=True)), rel=1e-5)
