"""Parameter groups, and steps against the formulas."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslab.nn.factory import create_model
from reslab.spec.optim import TORCH_OPTIMIZERS, OptimizerConfig
from reslab.training.optim.factory import build_optimizer, parameter_groups, set_lr


def quadratic(parameter: Tensor) -> Tensor:
    return (parameter * torch.arange(1.0, parameter.numel() + 1, dtype=parameter.dtype)).square().sum() / 2


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_takes_the_steps_of_the_formula(nesterov: bool) -> None:
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    w, velocity = model.weight.detach().clone(), torch.zeros(1, 4, dtype=torch.float64)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=0.1))
    scale = torch.arange(1.0, 5.0, dtype=torch.float64) ** 2
    for lr in (0.05, 0.02, 0.01):
        set_lr(optimizer, lr)
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
    optimizer = build_optimizer(model, OptimizerConfig("adamw", lr=0.1, betas=(0.8, 0.9), weight_decay=0.2))
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
    groups = parameter_groups(model, OptimizerConfig(weight_decay=0.5, decay_norm_and_bias=False))
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
    (group,) = parameter_groups(model, OptimizerConfig(weight_decay=0.5))
    assert [tuple(parameter.shape) for parameter in group["params"]] == [(2,), (2,), (2,)]
    assert group["weight_decay"] == 0.5


def test_nothing_to_train_is_an_error() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    for spare in (True, False):
        with pytest.raises(ValueError, match="parameters to train"):
            build_optimizer(model, OptimizerConfig(decay_norm_and_bias=spare))


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.Linear(5, 3),
    ]
    return nn.Sequential(*layers).double()


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        optimizer.zero_grad()
        x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64)
        nn.functional.cross_entropy(model(x), torch.arange(8) % 3).backward()
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_every_optimizer_of_torch_takes_its_own_steps_by_name(name: str) -> None:
    (kind,) = [getattr(torch.optim, attribute) for attribute in dir(torch.optim) if attribute.lower() == name]
    first, second = small(), small()
    result = trained(first, build_optimizer(first, OptimizerConfig(name, lr=0.01)))
    expected = trained(second, kind([{"params": list(second.parameters()), "weight_decay": 0.0}], lr=0.01))
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_the_table_of_torchs_optimizers_is_torchs() -> None:
    kinds = {
        name.lower()
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    assert set(TORCH_OPTIMIZERS) == kinds - {"optimizer", "sgd", "adamw", "muon", "lbfgs", "sparseadam"}


def test_options_betas_and_eps_reach_the_optimizer() -> None:
    model = small()
    settings = OptimizerConfig("rmsprop", lr=0.01, eps=1e-3, kwargs="alpha=0.5 centered=true", weight_decay=0.2)
    (group,) = build_optimizer(model, settings).param_groups
    assert (group["alpha"], group["centered"], group["eps"], group["weight_decay"]) == (0.5, True, 1e-3, 0.2)
    (group,) = build_optimizer(
        model, OptimizerConfig("lamb", betas=(0.8, 0.9), kwargs="max_grad_norm=none")
    ).param_groups
    assert group["betas"] == (0.8, 0.9)


def test_timms_optimizers_go_by_their_names() -> None:
    timm = pytest.importorskip("timm.optim")
    first, second = small(), small()
    result = trained(
        first, build_optimizer(first, OptimizerConfig("timm.lion", lr=0.01, betas=(0.8, 0.9), weight_decay=0.1))
    )
    expected = trained(second, timm.Lion(second.parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1))
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    with pytest.raises(ValueError, match="unknown optimizer of timm 'lin'"):
        build_optimizer(first, OptimizerConfig("timm.lin"))


def test_lamb_by_name_is_timms_with_norms_and_biases_spared() -> None:
    timm = pytest.importorskip("timm.optim")
    first, second = small(), small()
    settings = OptimizerConfig("lamb", lr=0.01, weight_decay=0.1, decay_norm_and_bias=False)
    result = trained(first, build_optimizer(first, settings))
    expected = trained(second, timm.Lamb(parameter_groups(second, settings), lr=0.01))
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_muon_takes_the_inner_weights_and_adamw_all_else() -> None:
    model = small()
    settings = OptimizerConfig("muon", lr=0.01, weight_decay=0.1, decay_norm_and_bias=False, kwargs="scale=original")
    groups = build_optimizer(model, settings).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    result = [{names[id(parameter)] for parameter in group["params"]} for group in groups]
    biases = {"0.bias", "1.weight", "1.bias", "2.bias", "4.bias", "5.bias"}
    assert result == [{"2.weight", "4.weight"}, {"0.weight", "5.weight"}, biases]
    assert [group["matrix"] for group in groups] == [True, False, False]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert {group["scale"] for group in groups} == {"original"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sgd", "kwargs": "momentm=0.9"}, "unknown option of sgd 'momentm'; nearest: 'momentum'"),
        ({"name": "sgd", "betas": (0.9, 0.99)}, "unknown option of sgd 'betas'"),
        ({"name": "rprop", "weight_decay": 0.1}, "no weight decay with rprop"),
        ({"name": "rmsprp"}, "unknown optimizer 'rmsprp'; nearest: 'rmsprop'"),
        ({"kwargs": "alpha"}, "as name=value"),
        ({"kwargs": "alpha=1 alpha=2"}, "alpha once"),
        ({"betas": (0.9,)}, r"optimizer\.betas"),
    ],
)
def test_what_an_optimizer_does_not_take_is_reported(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer(small(), OptimizerConfig(**settings))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_fused_pass_takes_the_steps_of_one_operation_after_another(name: str) -> None:
    config = OptimizerConfig(name, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    weights = []
    for kwargs in ("", "fused=False"):
        torch.manual_seed(0)
        model = create_model("resnet8_fast")
        optimizer = build_optimizer(model, replace(config, kwargs=kwargs))
        assert all(group["fused"] == (not kwargs) for group in optimizer.param_groups)
        for step in range(12):
            set_lr(optimizer, 0.1 * (step + 1) / 7.3)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        weights.append([parameter.detach() for parameter in model.parameters()])
    for own, expected in zip(*weights, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6)


def test_fused_sgd_takes_the_same_steps_where_a_part_is_unfrozen_late() -> None:
    weights = {}
    for kwargs in ("", "fused=False"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
        optimizer = build_optimizer(model, OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=0.01, kwargs=kwargs))
        for step in range(4):
            model[0].requires_grad_(step >= 2)
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        weights[kwargs] = [parameter.detach().clone() for parameter in model.parameters()]
    for fused, reference in zip(weights[""], weights["fused=False"], strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-6, atol=1e-7)
