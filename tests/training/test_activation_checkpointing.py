"""Units computed again in the backward pass: losses, gradients and statistics are those without."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from reslab.nn.factory import create_model
from reslab.training.loop import checkpoint_activations

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "projections": {"shortcut": "project"},
    "pre-activated": {"order": "full-preact"},
    "noisy": {"merge": "drop-path(0.5) add", "order": "conv norm act drop(0.5) | conv norm + act"},
    "survival": {"merge": "stochastic-depth(0.5) add"},
    "shared": {"share_weights": True, "depths": (3, 1, 1)},
}


def network(**axes: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet20_cifar", in_channels=1, **{"depths": (2, 1, 1), **axes})


def trained(model: nn.Module, on: bool, precision: torch.dtype | None = None) -> list[Tensor]:
    """Losses of some steps, and every gradient, weight and statistic at the end."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    with checkpoint_activations(model, on):
        for step in range(3):
            torch.manual_seed(step)
            x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 10
            optimizer.zero_grad()
            with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [*losses, *gradients, *model.state_dict().values()]


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_gradients_and_statistics_are_those_without(name: str) -> None:
    result, expected = (trained(network(**NETWORKS[name]), on) for on in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_also_under_autocast_and_with_a_frozen_norm() -> None:
    for precision in (None, torch.bfloat16):
        result = []
        for on in (True, False):
            model = network().train()
            model.get_submodule("layer1.0.bn1").eval()
            result.append(trained(model, on, precision))
        assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def kept_bytes(on: bool) -> int:
    """Return the bytes that the forward pass keeps for the backward pass, beside the weights."""
    model, seen = network(depths=(6, 6, 6)), {}

    def see(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with checkpoint_activations(model, on), saved_tensors_hooks(see, lambda tensor: tensor):
        loss = model(torch.randn(4, 1, 16, 16)).sum()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    del loss
    return sum(tensor.untyped_storage().nbytes() for key, tensor in seen.items() if key not in weights)


def test_far_less_is_kept_for_the_backward_pass() -> None:
    assert kept_bytes(True) < 0.5 * kept_bytes(False)


def test_afterwards_the_network_is_as_before_and_evaluation_is_untouched() -> None:
    model = network().eval()
    x = torch.randn(2, 1, 8, 8)
    before = model(x)
    with checkpoint_activations(model), torch.no_grad():
        assert torch.equal(model(x), before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_module_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match="a network of the zoo"), checkpoint_activations(nn.Linear(2, 2)):
        pass
    with checkpoint_activations(nn.Linear(2, 2), enabled=False):
        pass
