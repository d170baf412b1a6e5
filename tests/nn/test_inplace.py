"""Activations and sums in place: outputs and gradients equal to the bit, and where they may not be in place."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslab.nn.factory import create_model
from reslab.nn.inplace import inplace_ops
from reslab.nn.matmul_convs import tap_convs
from reslab.nn.merge import Merge
from reslab.nn.network import ResidualNetwork
from reslab.spec.order import ORDERS
from reslab.training.loop import checkpoint_activations
from tests.tiny_arch import TINY


def inplace_names(model: nn.Module) -> set[str]:
    with inplace_ops(model):
        return {name for name, module in model.named_modules() if getattr(module, "inplace", False)}


def results(model: nn.Module, enabled: bool, precision: torch.dtype | None = None) -> list[Tensor]:
    """Return the outputs of every stage, the logits and every gradient of one training step of a copy of the model."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(1)
    x = torch.randn(3, 3, 8, 8, requires_grad=True)
    torch.manual_seed(2)
    with (
        inplace_ops(model, enabled),
        torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None),
    ):
        maps = model.features(x, level="blocks") if isinstance(model, ResidualNetwork) else {}
        logits = model.forward_tail(list(maps.values())[-1]) if isinstance(model, ResidualNetwork) else model(x)
        loss = nn.functional.cross_entropy(logits, torch.arange(3)) + sum(
            map_.sigmoid().mean() for map_ in maps.values()
        )
        loss.backward()
    assert isinstance(x.grad, Tensor)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [logits, *maps.values(), x.grad, *gradients]


def assert_equal_results(model: nn.Module, precision: torch.dtype | None = None) -> None:
    expected, actual = (results(model, enabled, precision) for enabled in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("merge", ["none", "gate(0)", "drop-path(0.3) skipinit add"])
@pytest.mark.parametrize("order", ORDERS)
def test_outputs_and_gradients_are_equal_to_the_bit(order: str, merge: str) -> None:
    convs = (3,) if order.startswith("book") else (3, 3)
    for axes in ({}, {"norm": "group(2)", "stem": "conv3(4) act conv3(4) norm act"}, {"norm": "none", "bias": True}):
        torch.manual_seed(0)
        model = create_model(TINY, order=order, merge=merge, convs=convs, **axes)
        assert_equal_results(model, torch.bfloat16 if not axes else None)


@pytest.mark.parametrize(
    "axes",
    [
        {"merge": "shake(shake,even,image) add", "branches": 2},
        {"share_weights": True, "depths": (2,), "widths": (4,), "strides": (1,)},
        {"transition": "norm act conv1"},
    ],
    ids=["branches", "shared weights", "transitions"],
)
def test_also_in_networks_of_other_forms(axes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(TINY, **axes)
    assert inplace_names(model)
    assert_equal_results(model)


def test_also_where_blocks_are_computed_again() -> None:
    torch.manual_seed(0)
    model = create_model(TINY)
    with checkpoint_activations(model, True):
        assert_equal_results(model)


def test_also_after_convolutions_computed_as_products() -> None:
    """Without norms an activation follows a convolution, whose class the step may have exchanged."""
    torch.manual_seed(0)
    model = create_model(TINY, widths=(128, 128), strides=(4, 2), norm="none").to(memory_format=torch.channels_last)
    names = inplace_names(model)
    with tap_convs(model):
        assert len(inplace_names(model)) < len(names)
        assert_equal_results(model)


@pytest.mark.parametrize(("name", "number"), [("resnet50", 49), ("resnet50d", 51), ("resnet20_cifar", 19)])
def test_every_relu_and_sum_of_these_networks_is_in_place_inside_only(name: str, number: int) -> None:
    model = create_model(name)
    modules = [module for module in model.modules() if isinstance(module, nn.ReLU | Merge)]
    with inplace_ops(model):
        assert all(module.inplace for module in modules)
        assert sum(isinstance(module, nn.ReLU) for module in modules) == number
    with inplace_ops(model, enabled=False):
        assert not any(module.inplace for module in modules)
    with pytest.raises(ValueError, match="made for the test"), inplace_ops(model):
        raise ValueError("made for the test")
    assert not any(module.inplace for module in modules)


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        # The first activation of a block reads the block's input, which the shortcut reads too.
        ({"order": "norm-free-preact", "norm": "none"}, {"layer1.0.act2", "layer1.0.merge"}),
        # The gate's products need the values that they multiply.
        ({"merge": "gate(0)"}, {"act1", "layer1.0.act1"}),
        # The gradient of the factor needs the branch, and that of dropout's mask is no sum.
        ({"merge": "rezero"}, {"act1", "layer1.0.act1", "layer1.0.act2"}),
        ({"merge": "drop-path(0.5) add"}, {"act1", "layer1.0.act1", "layer1.0.act2"}),
        # The sum keeps the activation's output, which its gradient needs.
        ({"order": "conv norm act | conv norm act +"}, {"act1", "layer1.0.act1", "layer1.0.act2"}),
        ({"act": "silu"}, {"layer1.0.merge"}),
        ({"merge": "none"}, {"act1", "layer1.0.act1", "layer1.0.act2"}),
    ],
    ids=["input of a block", "gate", "factor", "stochastic depth", "ReLU ahead of the sum", "SiLU", "plain"],
)
def test_what_is_read_elsewhere_stays(axes: dict[str, Any], names: set[str]) -> None:
    model = create_model(TINY, depths=(1,), widths=(4,), strides=(1,), **axes)
    assert inplace_names(model) == names


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda module: module.register_forward_hook(lambda *call: None),
    "forward pre": lambda module: module.register_forward_pre_hook(lambda *call: None),
    "backward": lambda module: module.register_full_backward_hook(lambda *call: None),
    "backward pre": lambda module: module.register_full_backward_pre_hook(lambda *call: None),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("bn1", {"act1"}),
        ("act1", {"act1"}),
        ("bn2", {"merge"}),
        ("merge", {"merge", "act2"}),
        ("act2", {"act2"}),
        ("conv1", set()),
    ],
)
def test_hooks_see_what_they_would_see(name: str, kept: set[str], kind: str) -> None:
    model, block = create_model(TINY), "layer1.0"
    every_name = inplace_names(model)
    handle = HOOKS[kind](model.get_submodule(f"{block}.{name}"))
    assert every_name - inplace_names(model) == {f"{block}.{part}" for part in kept}
    results(model, True)
    handle.remove()
    assert inplace_names(model) == every_name


def test_hooks_of_all_modules_see_every_input() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *call: None)
    try:
        assert not inplace_names(create_model(TINY))
    finally:
        handle.remove()


def test_a_module_of_two_parents_and_networks_of_others_stay() -> None:
    model = create_model(TINY)
    model.get_submodule("layer1.0").add_module("act1", model.get_submodule("act1"))
    assert not {"act1", "layer1.0.act1"} & inplace_names(model)
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    foreign(torch.zeros(1, 3, 8, 8))
    assert not inplace_names(foreign)
