"""A network trained in the tests, and the images it is evaluated on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reslab.data.loader import eval_loader
from reslab.nn.network import ResidualNetwork
from reslab.training.checkpoint import load_run_network
from reslab.training.run import Run
from reslab.training.run_data import open_train_data
from reslab.training.train import train


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A residual network of three blocks, trained on the digits for two epochs."""
    path = tmp_path_factory.mktemp("deployed") / "digits"
    settings = {"model.depths": "1,1,1"}
    return train("resnet20_cifar", epochs=2, overrides=settings, output=path, device="cpu")


@pytest.fixture(scope="session")
def digits(run: Run) -> Tensor:
    """The test images of the digits, normalized for the run's network."""
    preprocess = load_run_network(run).preprocess
    assert preprocess is not None
    return torch.cat([x for x, _, _ in eval_loader(open_train_data("digits").split("test"), 400, preprocess, "cpu")])


@pytest.fixture
def network(run: Run) -> ResidualNetwork:
    """The run's network."""
    return load_run_network(run)


@pytest.fixture
def png_folder(tmp_path: Path) -> Path:
    """Eight digits as PNG files and one file that is not an image."""
    from PIL import Image

    images = open_train_data("digits").split("test")
    folder = tmp_path / "png"
    folder.mkdir()
    for index in range(8):
        Image.fromarray(images.preview(index)[0].numpy()).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder
