"""Two tiny networks on the digits, trained once and served to one browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reslab.training.run import Run
from reslab.training.run_data import open_train_data
from reslab.training.train import train

SMALL = {"model.depths": "2,2,2", "model.widths": "16,16,24"}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """`net` with 3x2 blocks, and its twin `plain` without shortcuts."""
    folder = tmp_path_factory.mktemp("explored")
    return [
        train(model, epochs=epochs, overrides=SMALL, output=folder / name, device="cpu")
        for name, model, epochs in (("net", "resnet20_cifar", 2), ("plain", "plain20_cifar", 1))
    ]


@pytest.fixture
def young(runs: list[Run], tmp_path: Path) -> Path:
    """`young`, a run in the middle of its training: a part of its log, and no weights."""
    folder = tmp_path / "young"
    folder.mkdir()
    shutil.copy(runs[0].path / "run.json", folder)
    Run(folder).update(result=None)
    (folder / "log.jsonl").write_text((runs[0].path / "log.jsonl").read_text().splitlines(keepends=True)[0])
    return folder


@pytest.fixture(scope="session")
def address(runs: list[Run]) -> Iterator[str]:
    """The address of the server."""
    from tests.deploy.web.browser import served

    with served(runs) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser, for one file: while it is open, Playwright's event loop is running, and other tests can run none."""
    from tests.deploy.web.browser import launched

    with launched() as launched_browser:
        yield launched_browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The explorer on a wide screen, after its first results."""
    from tests.deploy.web.browser import opened_page, wait_for_answers

    with opened_page(browser, address, viewport={"width": 1280, "height": 900}) as opened:
        wait_for_answers(opened)
        yield opened


@pytest.fixture(scope="session")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit as a user's own file."""
    file = tmp_path_factory.mktemp("images") / "seven.png"
    Image.fromarray(open_train_data("digits").split("test").preview(7)[0].numpy()).save(file)
    return file
