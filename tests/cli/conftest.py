"""A command line run inside the test's own process, and one small trained run that the tests share."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from reslab.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """The exit code of a command line and what it printed."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one JSON value on standard output."""
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in arguments])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


ONE_BLOCK = ("--set", "model.depths=1,1,1")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of resnet20_cifar with one block in each stage on the digits, three epochs."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--epochs", "3", *ONE_BLOCK, "--output", str(path), "--json"]) == 0
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six digits as PNG files, named by their number, and a file that is no image."""
    folder = tmp_path_factory.mktemp("image_folder")
    digits = load_digits()
    for index in range(6):
        pixels = (digits.images[index] * 255 / 16).round().astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder
