"""A recipe's optimizer over a network's parameters."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.optim import TIMM_PREFIX, TORCH_OPTIMIZERS, OptimizerConfig, parse_optimizer_kwargs
from reslab.training.optim.lamb import Lamb
from reslab.training.optim.muon import Muon

Groups = list[dict[str, Any]]
Make = Callable[..., torch.optim.Optimizer]


def parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> Groups:
    """The trainable parameters in the network's order; those of at most one dimension apart where not decayed."""
    return _decay_groups([parameter for parameter in model.parameters() if parameter.requires_grad], optimizer)


def _decay_groups(trained: Sequence[nn.Parameter], optimizer: OptimizerConfig) -> Groups:
    if optimizer.decay_norm_and_bias:
        return [{"params": list(trained), "weight_decay": optimizer.weight_decay}]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    spared = [parameter for parameter in trained if parameter.ndim <= 1]
    groups: Groups = [
        {"params": decayed, "weight_decay": optimizer.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(model: nn.Module, optimizer: OptimizerConfig) -> Groups:
    """Muon's matrices, every weight of two or more dimensions but the network's first and last; then all else.

    The first and the last weight, input and output layer, are stepped by AdamW as Jordan et al. 2024 do.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    inner = {id(parameter) for parameter in weights[1:-1]}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if id(parameter) in inner]
    rest = [parameter for parameter in trained if id(parameter) not in inner]
    groups = [{"params": matrices, "weight_decay": optimizer.weight_decay, "matrix": True}] if matrices else []
    return groups + (_decay_groups(rest, optimizer) if rest else [])


def build_optimizer(model: nn.Module, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of that name over the trainable parameters: ours, torch's, or timm's through its extra.

    Raises ValueError where nothing is trainable, for an unknown name, and for an option it does not take.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise invalid("a network with parameters to train", "none that requires a gradient", next_step="unfreeze some")
    groups = muon_groups(model, optimizer) if optimizer.name == "muon" else parameter_groups(model, optimizer)
    make, given = _maker(optimizer.name), _given(optimizer)
    _check_arguments(make, given, optimizer)
    return make(groups, **given)


def _maker(name: str) -> Make:
    makers: dict[str, Make] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "lamb": Lamb, "muon": Muon}
    if name in makers:
        return makers[name]
    if name in TORCH_OPTIMIZERS:
        return next(getattr(torch.optim, found) for found in dir(torch.optim) if found.lower() == name)
    return _timms(name.removeprefix(TIMM_PREFIX))


def _timms(name: str) -> Make:
    try:
        timms: Any = importlib.import_module("timm.optim")
    except ImportError:
        advice = "pip install 'reslab[timm]'"
        raise invalid(f"timm for the optimizer timm.{name}", "none installed", next_step=advice) from None
    if name not in timms.list_optimizers():
        raise unknown_name("optimizer of timm", name, timms.list_optimizers())
    make: Make = timms.get_optimizer_class(name, bind_defaults=True)
    return make


def _given(optimizer: OptimizerConfig) -> dict[str, Any]:
    """The arguments beside the parameters; weight decay is in their groups."""
    given: dict[str, Any] = {"lr": optimizer.lr}
    if optimizer.name in ("sgd", "muon"):
        given |= {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
    given |= {name: value for name, value in (("betas", optimizer.betas), ("eps", optimizer.eps)) if value is not None}
    return given | parse_optimizer_kwargs(optimizer.kwargs)


def _check_arguments(make: Make, given: dict[str, Any], optimizer: OptimizerConfig) -> None:
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name not in ("params", "self")]
    if optimizer.weight_decay and "weight_decay" not in known:
        raise invalid(f"no weight decay with {optimizer.name}", optimizer.weight_decay, nearest="0")
    for name in given:
        if name not in known:
            raise unknown_name(f"option of {optimizer.name}", name, known)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
