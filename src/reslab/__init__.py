"""Residual networks as data: describe, build, train, measure and use them with one machine.

The public names are loaded when they are first asked for, so `import reslab` is quick and imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.data.catalog import open_data
    from reslab.data.dataset import Data
    from reslab.deploy.exporting import export
    from reslab.deploy.prediction import predict
    from reslab.nn.create import create_model, list_models
    from reslab.spec.arch import Arch
    from reslab.spec.recipe import Recipe
    from reslab.training.judging import evaluate
    from reslab.training.loading import load
    from reslab.training.run import Run
    from reslab.training.train_run import train

__version__ = "0.1.0"

# Where each public name lives. `tests/test_public.py` holds this table against `__all__` and the imports above.
_HOMES = {
    "Arch": "reslab.spec.arch",
    "Data": "reslab.data.dataset",
    "Recipe": "reslab.spec.recipe",
    "Run": "reslab.training.run",
    "create_model": "reslab.nn.create",
    "evaluate": "reslab.training.judging",
    "export": "reslab.deploy.exporting",
    "list_models": "reslab.nn.create",
    "load": "reslab.training.loading",
    "open_data": "reslab.data.catalog",
    "predict": "reslab.deploy.prediction",
    "train": "reslab.training.train_run",
}

__all__ = [
    "Arch",
    "Data",
    "Recipe",
    "Run",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load",
    "open_data",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reslab' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
