"""Entry points for `torch.hub`: `torch.hub.load(REPOSITORY, "resnet56_cifar", num_classes=100)`.

Each takes the arguments of `reslab.create_model`; `network` loads a run's folder or a `model.safetensors`.
"""

import sys as _sys
from functools import partial as _partial
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors"]

# torch.hub clones the repository without installing the package.
_sys.path.append(str(_Path(__file__).resolve().parent / "src"))

from reslab.nn.factory import create_model as _create_model  # noqa: E402
from reslab.nn.factory import list_models as _list_models  # noqa: E402
from reslab.training.checkpoint import load_run_network as _load  # noqa: E402


def network(path: str, device: str = "cpu") -> _Any:
    """Load the trained network of a run's folder or a `model.safetensors`, in eval mode, with its classes."""
    return _load(path, device)


def _entry_point(name: str) -> _Any:
    """Return `create_model` for this name, with the docstring that `torch.hub.help` shows."""
    entry_point = _partial(_create_model, name)
    entry_point.__doc__ = f"create_model({name!r}, num_classes=, in_channels=, pretrained=, and any axis by name)"
    return entry_point


globals().update({_name: _entry_point(_name) for _name in _list_models()})
