"""How much of the loss's gradient reaches each unit."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.nn.network import Network


def unit_gradients(network: Network, x: Tensor, y: Tensor) -> list[tuple[str, float]]:
    """(unit, ||dL/dx_l||) for every unit l, first to last: x_l is the unit's input, L the batch's mean cross-entropy.

    x float32 (N, C, H, W), y int64 (N,); the norm is the Euclidean one over the whole batch. The network computes as
    in training (batch statistics), on a copy, so that nothing of it changes. A unit that runs several times has one
    entry a run. He et al. 2015, arXiv:1512.03385, Sec. 4.1, speak of these norms in plain networks.
    """
    network = copy.deepcopy(network).train()
    inputs: list[tuple[str, Tensor]] = []
    for name, unit in network.units():
        unit.register_forward_pre_hook(_keeper(name, inputs))
    with torch.enable_grad():
        loss = functional.cross_entropy(network(x.requires_grad_()), y)
        gradients = torch.autograd.grad(loss, [tensor for _, tensor in inputs])
    return [(name, float(found.norm())) for (name, _), found in zip(inputs, gradients, strict=True)]


def _keeper(name: str, inputs: list[tuple[str, Tensor]]) -> Any:
    def keep(unit: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append((name, arguments[0]))

    return keep
