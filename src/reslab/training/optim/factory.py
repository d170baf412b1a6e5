"""Parameter groups, and the optimizer of a recipe: ours, torch's or timm's."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.optim import OPTIMIZERS, TIMM_PREFIX, TORCH_OPTIMIZERS, OptimizerConfig, parse_optimizer_kwargs
from reslab.training.optim.optimizers import Lamb, Muon

ParamGroups = list[dict[str, Any]]
OptimizerFactory = Callable[..., torch.optim.Optimizer]


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> ParamGroups:
    """Group the trainable parameters by weight decay: those of one dimension (norms, biases) have none by default."""
    return _decay_groups([parameter for parameter in model.parameters() if parameter.requires_grad], config)


def _decay_groups(trainable: Sequence[nn.Parameter], config: OptimizerConfig) -> ParamGroups:
    if config.decay_norm_and_bias:
        return [{"params": list(trainable), "weight_decay": config.weight_decay}]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    not_decayed = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups: ParamGroups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(model: nn.Module, config: OptimizerConfig) -> ParamGroups:
    """Group the parameters for Muon: the matrices first, then everything that AdamW updates.

    Matrices are the weights of two or more dimensions except the network's first and last (Jordan et al. 2024).
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    inner_ids = {id(parameter) for parameter in weights[1:-1]}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if id(parameter) in inner_ids]
    others = [parameter for parameter in trainable if id(parameter) not in inner_ids]
    groups = [{"params": matrices, "weight_decay": config.weight_decay, "matrix": True}] if matrices else []
    return groups + (_decay_groups(others, config) if others else [])


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a config over the trainable parameters: ours, torch's, or `timm.NAME` with the timm extra.

    Raises ValueError if nothing is trainable, for an unknown name, or for an unknown argument.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise invalid("a network with parameters to train", "none that requires a gradient", next_step="unfreeze some")
    groups = muon_groups(model, config) if config.name == "muon" else parameter_groups(model, config)
    factory, kwargs = _optimizer_factory(config.name), _optimizer_kwargs(config)
    _check_kwargs(factory, kwargs, config)
    devices = {parameter.device.type for parameter in model.parameters()}
    if config.name in _FUSED and not {"foreach", "dampening"} & kwargs.keys() and devices <= _FUSED_DEVICES:
        kwargs = {"fused": True, **kwargs}
    optimizer = factory(groups, **kwargs)
    if isinstance(optimizer, torch.optim.SGD):
        optimizer.register_step_pre_hook(_start_late_momentum)
    return optimizer


def _start_late_momentum(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
    """Give a momentum of 0 to each parameter whose first gradient comes after those of others.

    torch's fused SGD fails unless all parameters of a step have a momentum, or none. With a dampening of 0 a momentum
    of 0 gives the same step.
    """
    if len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups):
        return  # none is late any more
    for group in optimizer.param_groups:
        if not (group["fused"] and group["momentum"]):
            continue
        moving = [parameter for parameter in group["params"] if parameter.grad is not None]
        late = [p for p in moving if optimizer.state.get(p, {}).get("momentum_buffer") is None]
        if len(late) < len(moving):
            for parameter in late:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


FACTORIES: dict[str, OptimizerFactory] = {
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
    "lamb": Lamb,
    "muon": Muon,
}
# One pass over weight, gradient and state, not one for each operation: on a CPU, SGD with momentum takes 0.67 of the
# time, AdamW 0.52; the weights are equal up to float32's rounding.
_FUSED, _FUSED_DEVICES = ("sgd", "adamw"), {"cpu", "cuda"}
OptimizerFactoryT = TypeVar("OptimizerFactoryT", bound=OptimizerFactory)


def register_optimizer(name: str, *, typical_lr: float = 0.001) -> Callable[[OptimizerFactoryT], OptimizerFactoryT]:
    """Return a decorator that registers an optimizer for the recipe key `optimizer`.

    It takes the parameter groups and `lr`; other parameters are set by the keys `optimizer.betas`, `optimizer.eps` and
    `optimizer.kwargs`. `typical_lr` is a learning rate of usual size at a batch of about 128. Raises ValueError for a
    name that is taken.
    """

    def register(factory: OptimizerFactoryT) -> OptimizerFactoryT:
        OPTIMIZERS.register(name, typical_lr, factory)
        FACTORIES[name] = factory
        return factory

    return register


def _optimizer_factory(name: str) -> OptimizerFactory:
    if name in FACTORIES:
        return FACTORIES[name]
    if name in TORCH_OPTIMIZERS:
        return next(getattr(torch.optim, attribute) for attribute in dir(torch.optim) if attribute.lower() == name)
    return _timm_factory(name.removeprefix(TIMM_PREFIX))


def _timm_factory(name: str) -> OptimizerFactory:
    try:
        timm_optim: Any = importlib.import_module("timm.optim")
    except ImportError:
        next_step = "pip install 'reslab[timm]'"
        raise invalid(f"timm for the optimizer timm.{name}", "none installed", next_step=next_step) from None
    if name not in timm_optim.list_optimizers():
        raise unknown_name("optimizer of timm", name, timm_optim.list_optimizers())
    factory: OptimizerFactory = timm_optim.get_optimizer_class(name, bind_defaults=True)
    return factory


def _optimizer_kwargs(config: OptimizerConfig) -> dict[str, Any]:
    """Return the optimizer's keyword arguments; the weight decay is in the parameter groups."""
    kwargs: dict[str, Any] = {"lr": config.lr}
    if config.name in ("sgd", "muon"):
        kwargs |= {"momentum": config.momentum, "nesterov": config.nesterov}
    kwargs |= {name: value for name, value in (("betas", config.betas), ("eps", config.eps)) if value is not None}
    return kwargs | parse_optimizer_kwargs(config.kwargs)


def _check_kwargs(factory: OptimizerFactory, kwargs: dict[str, Any], config: OptimizerConfig) -> None:
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known_names = [name for name in parameters if name not in ("params", "self")]
    if config.weight_decay and "weight_decay" not in known_names:
        raise invalid(f"no weight decay with {config.name}", config.weight_decay, nearest="0")
    for name in kwargs:
        if name not in known_names:
            raise unknown_name(f"option of {config.name}", name, known_names)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, in place where it is a tensor (`cuda_graph`)."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
