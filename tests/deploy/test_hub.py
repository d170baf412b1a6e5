"""hubconf.py: the repository as torch.hub loads it."""

import runpy
import subprocess
import sys
from pathlib import Path

import torch

from reslab.nn.factory import list_models
from reslab.training.run import Run

ROOT = Path(__file__).parents[2]


def test_a_network_by_name() -> None:
    network = torch.hub.load(str(ROOT), "resnet20_cifar", source="local", num_classes=7, depths=(1, 1, 1))
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_trained_network(run: Run) -> None:
    network = torch.hub.load(str(ROOT), "network", str(run.path), source="local")
    assert network.classes == tuple(str(digit) for digit in range(10))
    assert not network.training


def test_the_list_is_the_zoo_s() -> None:
    result = runpy.run_path(str(ROOT / "hubconf.py"))
    entries = {name: value for name, value in result.items() if callable(value) and not name.startswith("_")}
    assert set(entries) == {"network", *list_models()}
    assert all("create_model" in value.__doc__ for name, value in entries.items() if name != "network")


def test_without_an_installation() -> None:
    """In a process without an installed package, it is found beside the file."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        # Of this checkout, and of another one that is installed.
        "sys.path = [place for place in sys.path if place and not Path(place, 'reslab').exists()]\n"
        "import importlib.util, torch\nassert importlib.util.find_spec('reslab') is None\n"
        f"print(type(torch.hub.load({str(ROOT)!r}, 'resnet18_cifar', source='local')).__name__)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(sys.prefix)
    )
    assert (process.stdout.strip(), process.returncode) == ("ResidualNetwork", 0), process.stderr
