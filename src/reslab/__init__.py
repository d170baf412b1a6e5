"""Define, train, evaluate, analyze and deploy residual networks.

The public names are loaded on first use, so that `import reslab` is fast and does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reslab.data.dataset import DatasetSplits
    from reslab.data.registry import open_dataset, register_format
    from reslab.data.transforms.steps import register_transform
    from reslab.deploy.export.export import export
    from reslab.deploy.predict import predict
    from reslab.nn.factory import create_model, list_models
    from reslab.nn.merge import register_merge
    from reslab.nn.registry import Site, register_operation
    from reslab.nn.shortcut import register_shortcut
    from reslab.report.drawings.network import draw
    from reslab.spec.arch import Arch
    from reslab.spec.grammar import Param
    from reslab.spec.order import register_order
    from reslab.spec.plugins import load_plugins
    from reslab.spec.recipe import Recipe
    from reslab.spec.recipes import register_recipe
    from reslab.spec.zoo import register_arch
    from reslab.training.evaluation.evaluate import evaluate
    from reslab.training.evaluation.evaluation import register_metric
    from reslab.training.losses import register_loss
    from reslab.training.model_source import load
    from reslab.training.optim.factory import register_optimizer
    from reslab.training.optim.lr_schedule import register_schedule
    from reslab.training.run import Run
    from reslab.training.seeds import train_seeds
    from reslab.training.tasks.registry import register_task
    from reslab.training.train import train

__version__ = "0.1.0"

# The module of each public name. `tests/test_public.py` compares this table with `__all__` and the imports above.
_MODULES = {
    "Arch": "reslab.spec.arch",
    "DatasetSplits": "reslab.data.dataset",
    "Param": "reslab.spec.grammar",
    "Recipe": "reslab.spec.recipe",
    "Run": "reslab.training.run",
    "Site": "reslab.nn.registry",
    "create_model": "reslab.nn.factory",
    "draw": "reslab.report.drawings.network",
    "evaluate": "reslab.training.evaluation.evaluate",
    "export": "reslab.deploy.export.export",
    "list_models": "reslab.nn.factory",
    "load": "reslab.training.model_source",
    "load_plugins": "reslab.spec.plugins",
    "open_dataset": "reslab.data.registry",
    "predict": "reslab.deploy.predict",
    "register_arch": "reslab.spec.zoo",
    "register_format": "reslab.data.registry",
    "register_loss": "reslab.training.losses",
    "register_merge": "reslab.nn.merge",
    "register_metric": "reslab.training.evaluation.evaluation",
    "register_operation": "reslab.nn.registry",
    "register_optimizer": "reslab.training.optim.factory",
    "register_order": "reslab.spec.order",
    "register_recipe": "reslab.spec.recipes",
    "register_schedule": "reslab.training.optim.lr_schedule",
    "register_shortcut": "reslab.nn.shortcut",
    "register_task": "reslab.training.tasks.registry",
    "register_transform": "reslab.data.transforms.steps",
    "train": "reslab.training.train",
    "train_seeds": "reslab.training.seeds",
}

__all__ = [
    "Arch",
    "DatasetSplits",
    "Param",
    "Recipe",
    "Run",
    "Site",
    "create_model",
    "draw",
    "evaluate",
    "export",
    "list_models",
    "load",
    "load_plugins",
    "open_dataset",
    "predict",
    "register_arch",
    "register_format",
    "register_loss",
    "register_merge",
    "register_metric",
    "register_operation",
    "register_optimizer",
    "register_order",
    "register_recipe",
    "register_schedule",
    "register_shortcut",
    "register_task",
    "register_transform",
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
