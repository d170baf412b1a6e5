"""A recipe's optimizer over a network's parameters."""

from typing import Any

import torch
from torch import nn

from reslab.spec.recipe import Optimizer


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    """The trainable parameters in the network's order; those of at most one dimension apart where not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if optimizer.decay_norm_and_bias:
        return [{"params": trained, "weight_decay": optimizer.weight_decay}]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    spared = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    """torch's SGD or AdamW over `parameter_groups`. Raises ValueError where nothing is trainable."""
    groups = parameter_groups(model, optimizer)
    if not any(group["params"] for group in groups):
        raise ValueError(
            "required: a network with parameters to train; got: none that requires a gradient; unfreeze some"
        )
    if optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=optimizer.lr, momentum=optimizer.momentum, nesterov=optimizer.nesterov)
    first, second = optimizer.betas
    return torch.optim.AdamW(groups, lr=optimizer.lr, betas=(first, second), eps=optimizer.eps)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
