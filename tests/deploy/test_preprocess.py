"""`network.preprocess(image)` is the input that prediction gives the network, and results print shortly."""

import copy
import io
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
from reslab.data.registry import open_dataset
from reslab.deploy.predict import predict
from reslab.deploy.server.decoding import InferenceTransform, decode_image
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.report.format import format_number
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.evaluate import evaluate
from tests.data.image_bytes import make_tiff, png_chunk, png_of_values

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


DEEP = np.random.default_rng(1).integers(0, 1 << 16, (32, 32)).astype(np.uint16)
GRAY = (DEEP.astype(np.int64) * 2 + 257) // 514  # to the nearest of v / 257
COLOR = np.random.default_rng(2).integers(0, 1 << 16, (32, 32, 3)).astype(np.uint16)


def with_white(values: np.ndarray, is_transparent: np.ndarray) -> np.ndarray:
    return np.where(is_transparent[..., None] if values.ndim == 3 else is_transparent, 255, values)


DEEP_FILES = {
    "gray.png": (png_of_values(DEEP, 16, 0), GRAY),
    "gray.tif": (make_tiff(DEEP.astype("<u2")), GRAY),
    "big.tif": (make_tiff(DEEP.astype(">u2")), GRAY),
    "white-is-zero.tif": (make_tiff(DEEP.astype("<u2"), photometric=0), 255 - GRAY),
    "turned.tif": (make_tiff(DEEP.astype("<u2"), orientation=3), GRAY[::-1, ::-1]),
    "color.png": (png_of_values(COLOR, 16, 2), COLOR >> 8),
    "transparent-gray.png": (
        png_of_values(DEEP, 16, 0, png_chunk(b"tRNS", int(DEEP[3, 4]).to_bytes(2))),
        with_white(GRAY, DEEP[3, 4] == DEEP),
    ),
    "transparent-color.png": (
        png_of_values(COLOR, 16, 2, png_chunk(b"tRNS", COLOR[3, 4].astype(">u2").tobytes())),
        with_white(COLOR >> 8, (COLOR[3, 4] == COLOR).all(2)),
    ),
    "transparent-4.png": (
        png_of_values(DEEP >> 12, 4, 0, png_chunk(b"tRNS", b"\0\5")),
        with_white((DEEP >> 12) * 17, DEEP >> 12 == 5),
    ),
    "transparent-2.png": (
        png_of_values(DEEP >> 14, 2, 0, png_chunk(b"tRNS", b"\0\1")),
        with_white((DEEP >> 14) * 85, DEEP >> 14 == 1),
    ),
}


@pytest.mark.parametrize("name", DEEP_FILES)
def test_images_of_other_depths_are_the_same_in_training_prediction_and_service(
    name: str, network: ResidualNetwork, tmp_path: Path
) -> None:
    content, values = DEEP_FILES[name]
    expected = torch.from_numpy(values.astype(np.uint8)).reshape(32, 32, -1).permute(2, 0, 1).expand(3, 32, 32)
    paths = [tmp_path / split / label / name for split in ("train", "val") for label in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    in_folder = open_dataset(tmp_path).splits["val"].load_image(0)
    items = as_dataset([(Image.open(io.BytesIO(content)), label) for label in (0, 1)]).splits["train"]
    in_memory = [items.load_image(0), items.load_image(1), items.load_image(1)]
    plain = copy.deepcopy(network)
    plain.set_metadata(preprocess=Preprocess(3, "", (0.0,) * 3, (1.0,) * 3))
    inputs = [plain.preprocess(image)[0] * 255 for image in (paths[0], content, Image.open(io.BytesIO(content)))]
    served = []
    if name.endswith(".png"):  # a browser's formats
        transform = InferenceTransform(Preprocess(3, "", (0.0,) * 3, (1.0,) * 3), (32, 32))
        served = [decode_image(content, transform, 10_000).read_pixels]
    for pixels in (in_folder, *in_memory, *inputs, *served):
        assert torch.equal(pixels.round().to(torch.uint8).expand(3, 32, 32), expected)


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
