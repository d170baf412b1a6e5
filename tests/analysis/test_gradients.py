"""The gradient that reaches each unit, held against torch's own and against what shortcuts promise."""

import copy

import pytest
import torch
from torch.nn import functional

from reslab.analysis.gradients import unit_gradients
from reslab.nn.create import create_model
from reslab.nn.network import Network


def network(**axes: object) -> Network:
    torch.manual_seed(0)
    found = create_model("resnet20_cifar", image_size=(8, 8), **axes)
    assert isinstance(found, Network)
    return found.double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(10, (16,), generator=generator)


def test_each_norm_is_torch_s_own(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (x, y) = network(), batch
    found = unit_gradients(model, x, y)
    assert [name for name, _ in found] == [name for name, _ in model.units()]
    # The gradient at a unit's input, by running stem and rest apart.
    chain = [unit for _, unit in model.train().units()]
    for place in (0, 4, 8):
        inputs = model.run_stem(x)
        for unit in chain[:place]:
            inputs = unit(inputs)
        inputs = inputs.detach().requires_grad_()
        output = inputs
        for unit in chain[place:]:
            output = unit(output)
        functional.cross_entropy(model.run_head(output), y).backward()
        assert inputs.grad is not None
        assert found[place][1] == pytest.approx(float(inputs.grad.norm()), rel=1e-10)


def test_the_network_is_as_it_was(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (x, y) = network().eval(), batch
    before = copy.deepcopy(model.state_dict())
    unit_gradients(model, x, y)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(unit._forward_pre_hooks for _, unit in model.units())


def test_under_no_grad_it_measures_all_the_same(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (x, y) = network(), batch
    with torch.no_grad():
        assert unit_gradients(model, x, y) == unit_gradients(model, x, y)


def test_zero_branches_pass_the_gradient_on_unchanged(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Pre-activated units whose branch ends in zeros are the identity: within a stage every norm is the same."""
    model, (x, y) = network(order="full-preact", mix="rezero add"), batch
    norms = dict(unit_gradients(model, x, y))
    assert norms["layer3.1"] == pytest.approx(norms["layer3.2"], rel=1e-12)


def test_a_shared_unit_has_a_norm_a_run() -> None:
    torch.manual_seed(0)
    model = create_model("book_resdeep", depths=(3,))
    assert isinstance(model, Network)
    found = unit_gradients(model, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))
    assert [name for name, _ in found] == ["layer1.0"] * 3
    assert len({norm for _, norm in found}) == 3
