"""A server of two tiny networks on the digits, a residual one and its plain twin, and images to send."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from reslab.data.dataset import DatasetSplits
from reslab.data.decode import read_image
from reslab.data.transforms.normalize import Normalize
from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.network import ResidualNetwork
from reslab.training.checkpoint import load_run_network
from reslab.training.run import Run
from reslab.training.run_data import open_train_data
from reslab.training.train import train
from tests.deploy.listening import listening

SMALL = {"model.depths": "2,2,1", "model.widths": "16,16,24"}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """`net` and its plain twin `plain`, trained on the digits for one epoch."""
    folder = tmp_path_factory.mktemp("served")
    return [
        train("resnet20_cifar", epochs=1, overrides={**SMALL, **more}, output=folder / name, device="cpu")
        for name, more in (("net", {}), ("plain", {"model.merge": "none"}))
    ]


@pytest.fixture(scope="session")
def settings() -> ServerSettings:
    return ServerSettings(backend="torch", device="cpu", max_bytes=1 << 20, max_pixels=1_000_000, max_images=8)


@pytest.fixture(scope="session")
def client(runs: list[Run], settings: ServerSettings) -> Iterator[TestClient]:
    """The application, called without a socket."""
    with TestClient(create_app(runs, settings)) as opened:
        yield opened


@pytest.fixture(scope="session")
def digits() -> DatasetSplits:
    return open_train_data("digits")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a digit as a file of this format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def png(digits: DatasetSplits) -> bytes:
    """A digit as a PNG file."""
    return encoded(Image.fromarray(digits.split("test").preview(0)[0].numpy()))


@pytest.fixture(scope="session")
def text(png: bytes) -> str:
    """The digit in base64."""
    return base64.b64encode(png).decode()


@pytest.fixture
def weights(runs: list[Run], tmp_path: Path) -> Path:
    """A weights file without a run."""
    file = tmp_path / "alone.safetensors"
    file.write_bytes(runs[0].weights_path.read_bytes())
    return file


@pytest.fixture(scope="session")
def live(runs: list[Run], settings: ServerSettings) -> Iterator[str]:
    """The address of the server on a local socket."""
    with listening(create_app(runs, settings), settings) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def network(runs: list[Run]) -> ResidualNetwork:
    return load_run_network(runs[0])


@pytest.fixture(scope="session")
def x(network: ResidualNetwork, png: bytes) -> torch.Tensor:
    assert network.preprocess is not None
    return Normalize(network.preprocess, torch.device("cpu"))(read_image(png, 1)[None])
