"""LAMB against timm's, step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslab.training.optim.optimizers import Lamb, trust_ratio

timm_optim = pytest.importorskip("timm.optim")

CASES: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.0},
    {"weight_decay": 0.0, "always_adapt": True},
    {"trust_clip": True, "lr": 0.3},
    {"max_grad_norm": None, "betas": (0.8, 0.9), "eps": 1e-3},
    {"decoupled": True, "weight_decay": 0.2},
]


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (5, 6), (7,), (1,)]
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]


def grouped(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.0}]


def set_gradients(params: list[nn.Parameter], step: int, size: float) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in params:
        parameter.grad = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [0.01, 3.0])
@pytest.mark.parametrize("settings", CASES)
def test_its_steps_are_timms(settings: dict[str, Any], size: float) -> None:
    ours, theirs = parameters(), parameters()
    theirs_settings = {("decoupled_decay" if key == "decoupled" else key): settings[key] for key in settings}
    pair = (
        Lamb(grouped(ours), **{"lr": 0.05, **settings}),
        timm_optim.Lamb(grouped(theirs), **{"lr": 0.05, **theirs_settings}),
    )
    for step in range(25):
        for optimizer, params in zip(pair, (ours, theirs), strict=True):
            set_gradients(params, step, size)
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + step / 10)
            optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-13)


def test_a_parameter_without_gradient_stays_and_gradients_are_untouched() -> None:
    params = parameters()
    before = [parameter.detach().clone() for parameter in params]
    set_gradients(params, 0, 9.0)
    params[1].grad = None
    kept = params[0].grad
    assert isinstance(kept, Tensor)
    gradient = kept.clone()
    Lamb(params, lr=0.1).step()
    assert torch.equal(params[1], before[1])
    assert not torch.equal(params[0], before[0])
    assert torch.equal(kept, gradient)


def test_it_is_resumed_from_its_state() -> None:
    whole, halves = parameters(), parameters()
    first, second = Lamb(whole, lr=0.1), Lamb(halves, lr=0.1)
    for step in range(6):
        set_gradients(whole, step, 1.0)
        first.step()
        if step == 3:
            state = second.state_dict()
            second = Lamb(halves, lr=0.1)
            second.load_state_dict(state)
        set_gradients(halves, step, 1.0)
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_trust_ratio_is_one_if_a_norm_is_zero() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert trust_ratio(zero, one) == trust_ratio(one, zero) == 1.0
    assert trust_ratio(4 * one, one) == 4.0
    assert trust_ratio(4 * one, one, clip=True) == 1.0


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -1.0}, {"betas": (0.9, 1.0)}, {"max_grad_norm": 0.0}]
)
def test_invalid_values_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Lamb(parameters(), **wrong)
