"""The size of the weights as a part of the loss."""

import torch
from torch import Tensor, nn


def size_penalty(model: nn.Module, l1: float, l2: float) -> Tensor:
    """l1 sum |w| + l2 sum w^2 over every parameter that is trained, norms and biases too, in float32 or wider.

    The loss of Stevens, Antiga and Viehmann 2020, Sec. 8.5.2. Under plain SGD the gradient 2 l2 w is a weight decay of
    2 l2 on every parameter.
    """
    total = torch.zeros((), device=next(model.parameters()).device)
    with torch.autocast(total.device.type, enabled=False):
        for weight in model.parameters():
            if not weight.requires_grad:
                continue
            if l1:
                total = total + l1 * weight.abs().sum()
            if l2:
                total = total + l2 * weight.square().sum()
    return total
