"""Settings of all tests: one thread, no network but loopback, and no cache of the person who runs them."""

import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

# Before torch is imported anywhere: sums keep their order, and two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

LOOPBACK = ("127.", "::1", "localhost")
LONGEST_FIRST = ("training", "cli", "test_snippets.py", "deploy", "studies", "analysis")
"""Folders and files of `tests/` that start first, so that no process is left with the longest file at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by folder; `--no-loadscope-reorder` of pytest-xdist keeps the order."""
    here = Path(__file__).parent
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(here).parts[0], len(ranks)))


def pytest_collection_finish() -> None:
    """Exempt what is there from garbage collection, which would visit all tests and modules each time (1 s)."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of torch, the hub and reslab in a folder of this session: nothing found at home can help a test."""
    folder = tmp_path_factory.mktemp("caches")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ["TORCH_HOME"] = str(folder / "torch")
    os.environ["HF_HOME"] = str(folder / "huggingface")
    os.environ["RESLAB_CACHE"] = str(folder / "reslab")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine is an error: the suite passes without a network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="module")
def empty_plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the plots of reports empty: they take most of the time of a tiny training.

    A module with `pytestmark = pytest.mark.real_plots` gets them drawn.
    """
    if request.node.get_closest_marker("real_plots"):
        yield
        return
    from reslab.report.plots import export  # here, because matplotlib takes long to import

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_figure_to_svg", lambda figure: ElementTree.Element("svg", {"viewBox": "0 0 1 1"}))
        yield
