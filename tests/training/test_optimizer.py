"""Parameter groups, and steps against the formulas."""

import pytest
import torch
from torch import Tensor, nn

from reslab.nn.create import create_model
from reslab.spec.recipe import Optimizer
from reslab.training.optimizer import build_optimizer, parameter_groups, set_rate


def quadratic(parameter: Tensor) -> Tensor:
    return (parameter * torch.arange(1.0, parameter.numel() + 1, dtype=parameter.dtype)).square().sum() / 2


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_takes_the_steps_of_the_formula(nesterov: bool) -> None:
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    w, velocity = model.weight.detach().clone(), torch.zeros(1, 4, dtype=torch.float64)
    optimizer = build_optimizer(model, Optimizer(lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=0.1))
    scale = torch.arange(1.0, 5.0, dtype=torch.float64) ** 2
    for lr in (0.05, 0.02, 0.01):
        set_rate(optimizer, lr)
        optimizer.zero_grad()
        quadratic(model.weight).backward()
        optimizer.step()
        gradient = scale * w + 0.1 * w
        velocity = 0.9 * velocity + gradient
        w = w - lr * (gradient + 0.9 * velocity if nesterov else velocity)
        torch.testing.assert_close(model.weight.detach(), w, rtol=1e-12, atol=1e-14)


def test_adamw_takes_the_steps_of_the_formula() -> None:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    w = model.weight.detach().clone()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    optimizer = build_optimizer(model, Optimizer("adamw", lr=0.1, betas=(0.8, 0.9), weight_decay=0.2))
    scale = torch.arange(1.0, 4.0, dtype=torch.float64) ** 2
    for step in (1, 2, 3):
        optimizer.zero_grad()
        quadratic(model.weight).backward()
        optimizer.step()
        gradient = scale * w
        first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
        update = (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
        w = w - 0.1 * 0.2 * w - 0.1 * update
        torch.testing.assert_close(model.weight.detach(), w, rtol=1e-12, atol=1e-14)


def test_norms_and_biases_are_spared_by_choice() -> None:
    model = create_model("resnet20_cifar", bias=True)
    groups = parameter_groups(model, Optimizer(weight_decay=0.5, decay_norm_and_bias=False))
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    spared = {id(parameter) for parameter in groups[1]["params"]}
    assert spared == {id(p) for norm in norms for p in norm.parameters()} | {id(bias) for bias in biases}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_all_is_decayed_otherwise_and_what_is_frozen_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].weight.requires_grad_(False)
    (group,) = parameter_groups(model, Optimizer(weight_decay=0.5))
    assert [tuple(parameter.shape) for parameter in group["params"]] == [(2,), (2,), (2,)]
    assert group["weight_decay"] == 0.5


def test_nothing_to_train_is_an_error() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    for spare in (True, False):
        with pytest.raises(ValueError, match="parameters to train"):
            build_optimizer(model, Optimizer(decay_norm_and_bias=spare))
