"""Signals and volumes from tensors: train, resume, evaluate, load, predict."""

import pytest
import torch

import reslab
from reslab.data.adapters import as_dataset


def make_signals(num_signals: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy sine waves (N, 1, 64) of three frequencies, and the number of the frequency."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_signals) % 3
    time = torch.linspace(0, 12.6, 64)
    noise = 0.2 * torch.randn(num_signals, 1, 64, generator=generator)
    return torch.sin(time * (1 + labels[:, None, None])) + noise, labels


@pytest.fixture(scope="module")
def signals():
    return make_signals()


@pytest.fixture(scope="module")
def run(signals, tmp_path_factory):
    model = reslab.create_model("resnet20_cifar", dims=1, in_channels=1, num_classes=3, depths=(1, 1, 1)).arch
    output = tmp_path_factory.mktemp("signals") / "run"
    return reslab.train(model, signals, epochs=4, batch_size=32, lr=0.1, output=output, device="cpu")


def test_a_network_of_signals_learns_from_tensors(run):
    assert run.main_metric > 0.9


def test_the_run_is_loaded_and_predicts_signals(run, signals):
    images, _ = signals
    network = reslab.load(run.path)
    assert (network.arch.dims, network.arch.image_size) == (1, (64,))
    predictions = reslab.predict(run.path, images[:12])
    with torch.no_grad():
        expected = network(images[:12]).softmax(1).max(1)
    assert [prediction.classes[0].name for prediction in predictions] == [str(k) for k in expected.indices.tolist()]
    assert [prediction.classes[0].probability for prediction in predictions] == pytest.approx(
        expected.values.tolist(), rel=1e-5
    )


@pytest.mark.parametrize("dims", [1, 3])
def test_predictions_are_normalized_as_evaluations(dims, tmp_path):
    generator, sides = torch.Generator().manual_seed(0), {1: (32,), 3: (4, 8, 8)}[dims]
    inputs, labels = 50 + 20 * torch.randn(48, 1, *sides, generator=generator), torch.arange(48) % 2
    overrides = {"model.dims": dims, "model.depths": "1,1,1", "normalize.mean": "50", "normalize.std": "20"}
    data = as_dataset((inputs, labels), (inputs, labels), dims=dims)
    run = reslab.train("resnet20_cifar", data, epochs=1, batch_size=16, overrides=overrides, output=tmp_path / "run")
    evaluation = reslab.evaluate(run, data, keep_predictions=True)
    first = [{score.name: score.probability for score in row.classes}["0"] for row in reslab.predict(run.path, inputs)]
    torch.testing.assert_close(torch.tensor(first), evaluation.probabilities[:, 0], rtol=1e-4, atol=1e-6)


def test_the_run_is_evaluated_on_other_signals(run):
    result = reslab.evaluate(run.path, make_signals(60))
    assert result.num_samples == 60
    assert result.top1 > 0.9


def test_other_shapes_are_an_error_that_names_the_right_one(run, signals):
    with pytest.raises(ValueError, match=r"signals \(N, C, T\) with 1 channels, floats; got: one of shape \(64,\)"):
        reslab.predict(run.path, signals[0][:2, 0])
    with pytest.raises(ValueError, match=r"signals of shape \(N, C, T\)"):
        reslab.train("resnet20_cifar", (signals[0][:, 0], signals[1]), overrides={"model.dims": 1})


def test_a_transform_of_images_is_an_error(signals, tmp_path):
    with pytest.raises(ValueError, match="transforms of images; got: train_transform"):
        reslab.train(
            "resnet20_cifar", signals, overrides={"model.dims": 1, "train_transform": "flip"}, output=tmp_path / "run"
        )


def test_a_network_of_volumes_trains_a_step(tmp_path):
    volumes, labels = torch.randn(16, 1, 4, 16, 16), torch.arange(16) % 2
    model = reslab.create_model("resnet20_cifar", dims=3, in_channels=1, num_classes=2, depths=(1, 1, 1)).arch
    run = reslab.train(model, (volumes, labels), epochs=1, batch_size=8, output=tmp_path / "run", device="cpu")
    assert len(reslab.predict(run.path, volumes)) == 16
