"""`network.preprocess(image)` is the input that prediction gives the network, and results print shortly."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from reslab.data.adapters import as_dataset
from reslab.deploy.predict import predict
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.report.format import format_number
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.evaluate import evaluate

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PREPROCESS = Preprocess(3, "resize(40) center-crop(32)", MEAN, STD)


@pytest.fixture(scope="module")
def network() -> ResidualNetwork:
    model = create_model("resnet20_cifar", depths="1,1,1", num_classes=3)
    assert isinstance(model, ResidualNetwork)
    model.set_metadata(classes=("ant", "bee", "cat"), preprocess=PREPROCESS)
    return model.eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)


def test_every_kind_of_image_gives_torchvisions_input(
    network: ResidualNetwork, pixels: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.png")
    reference = v2.Compose(
        [
            v2.Resize(40, antialias=True),
            v2.CenterCrop(32),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )(torch.from_numpy(pixels).permute(2, 0, 1))
    images = [Image.fromarray(pixels), tmp_path / "image.png", str(tmp_path / "image.png"), pixels]
    for image in [*images, torch.from_numpy(pixels).permute(2, 0, 1)]:
        x = network.preprocess(image)
        assert x.shape == (1, 3, 32, 32)
        assert torch.allclose(x[0], reference, atol=1e-6)
    with torch.no_grad():
        probabilities = network(x).softmax(1)[0]
    prediction = predict(network, tmp_path / "image.png", top_k=3)[0]
    for score in prediction.classes:
        assert score.probability == pytest.approx(probabilities[network.classes.index(score.name)].item(), abs=1e-6)


def test_an_image_of_another_size_is_fitted_to_the_network(pixels: np.ndarray) -> None:
    model = create_model("resnet20_cifar", in_channels=1)
    assert isinstance(model, ResidualNetwork)
    model.set_metadata(preprocess=Preprocess(1, "", (0.5,), (0.25,)))
    assert model.preprocess(pixels).shape == (1, 1, 32, 32)
    assert torch.equal(model.preprocess(np.full((32, 32), 255, np.uint8)), torch.full((1, 1, 32, 32), 2.0))


@pytest.mark.parametrize(
    ("image", "message"),
    [(np.zeros((8, 8, 3), np.float32), "uint8"), (3, "a int"), (np.zeros((2, 8, 8, 3), np.uint8), "(2, 8, 8, 3)")],
)
def test_what_is_no_image_is_refused(network: ResidualNetwork, image: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        network.preprocess(image)
    assert message in str(error.value)


def test_the_preprocessing_is_a_value(network: ResidualNetwork) -> None:
    own = network.preprocess
    assert own == PREPROCESS
    assert own == PREPROCESS
    assert hash(own) == hash(PREPROCESS)
    assert replace(own, transform="") == replace(PREPROCESS, transform="") != own
    assert pickle.loads(pickle.dumps(own)) == copy.deepcopy(network).preprocess == own


def test_metadata_is_set_in_part(network: ResidualNetwork) -> None:
    model = copy.deepcopy(network)
    model.set_metadata(temperature=2.0)
    assert (model.classes, model.preprocess, model.temperature) == (("ant", "bee", "cat"), PREPROCESS, 2.0)


def test_data_and_evaluations_print_shortly(network: ResidualNetwork) -> None:
    images = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
    data = as_dataset((images, torch.arange(30) % 3), name="thirty", classes=("ant", "bee", "cat"))
    assert repr(data).splitlines()[1:] == ["  images: train 30", "  3 classes: ant, bee, cat"]
    assert "<td>training</td><td>30</td>" in data._repr_html_()
    evaluation = evaluate(network, data, keep_predictions=True)
    percent = f"{100 * evaluation.top1:.2f} %"
    assert repr(evaluation) == f"Evaluation(train: top1 {percent}, loss {format_number(evaluation.loss)})"
    assert f"<td>{percent}</td>" in evaluation._repr_html_()
