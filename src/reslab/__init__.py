"""Define, train, evaluate, analyze and deploy residual networks.

The public names are loaded on first use, so that `import reslab` is fast and does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.data.dataset import DatasetSplits
    from reslab.data.registry import open_dataset
    from reslab.deploy.export.export import export
    from reslab.deploy.predict import predict
    from reslab.nn.factory import create_model, list_models
    from reslab.spec.arch import Arch
    from reslab.spec.recipe import Recipe
    from reslab.training.evaluation.evaluate import evaluate
    from reslab.training.run import Run, load
    from reslab.training.seeds import train_seeds
    from reslab.training.train import train

__version__ = "0.1.0"

# The module of each public name. `tests/test_public.py` compares this table with `__all__` and the imports above.
_MODULES = {
    "Arch": "reslab.spec.arch",
    "DatasetSplits": "reslab.data.dataset",
    "Recipe": "reslab.spec.recipe",
    "Run": "reslab.training.run",
    "create_model": "reslab.nn.factory",
    "evaluate": "reslab.training.evaluation.evaluate",
    "export": "reslab.deploy.export.export",
    "list_models": "reslab.nn.factory",
    "load": "reslab.training.run",
    "open_dataset": "reslab.data.registry",
    "predict": "reslab.deploy.predict",
    "train": "reslab.training.train",
    "train_seeds": "reslab.training.seeds",
}

__all__ = [
    "Arch",
    "DatasetSplits",
    "Recipe",
    "Run",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load",
    "open_dataset",
    "predict",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'reslab' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
