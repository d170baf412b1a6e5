"""Activations and sums in place: outputs and gradients equal to the bit, and where they may not be in place."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslab.deploy.export.bn_folding import fold_batch_norms
from reslab.nn.block import ResidualBlock
from reslab.nn.factory import create_model
from reslab.nn.inplace import inplace_ops, work_in_place
from reslab.nn.matmul_convs import tap_convs
from reslab.nn.merge import FunctionMerge, Merge
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


@pytest.mark.parametrize("axes", [{}, {"order": "full-preact"}, {"convs": (1, 3, 1)}])
def test_networks_with_folded_norms_work_in_place(axes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(TINY, **axes)
    take_step(model, False)  # running statistics that are not those of a new network
    folded = fold_batch_norms(model)
    x = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        expected = folded(x)
        assert {type(module) for module in work_in_place(folded)} == {nn.ReLU, FunctionMerge}
        assert inplace_names(folded) == inplace_names(model)
        assert torch.equal(folded(x), expected)


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


HOOKS: dict[str, Callable[[nn.Module, Callable[..., None]], Any]] = {
    "forward": lambda module, keep: module.register_forward_hook(lambda _, inputs, output: keep(*inputs, output)),
    "forward pre": lambda module, keep: module.register_forward_pre_hook(lambda _, inputs: keep(*inputs)),
    "backward": lambda module, keep: module.register_full_backward_hook(lambda _, *gradients: keep(*gradients[0])),
    "backward pre": lambda module, keep: module.register_full_backward_pre_hook(lambda _, grads: keep(*grads)),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("bn1", {"act1"}),
        ("act1", {"act1"}),
        ("bn2", {"merge"}),
        ("merge", {"merge", "act2"}),
        ("merge.branch_modifiers", {"merge"}),
        ("act2", {"act2"}),
        ("conv1", set()),
    ],
)
def test_hooks_see_what_they_would_see(name: str, kept: set[str], kind: str) -> None:
    torch.manual_seed(0)
    model, block = create_model(TINY), "layer1.0"
    every_name = inplace_names(model)
    seen: list[Tensor | None] = []
    handle = HOOKS[kind](model.get_submodule(f"{block}.{name}"), lambda *tensors: seen.extend(tensors))
    assert every_name - inplace_names(model) == {f"{block}.{part}" for part in kept}
    values = []
    for enabled in (False, True):
        seen.clear()
        take_step(model, enabled)
        values.append([tensor.clone() for tensor in seen if tensor is not None])
    assert values[0]
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
    handle.remove()
    assert inplace_names(model) == every_name


def take_step(model: nn.Module, enabled: bool) -> None:
    """Take one training step with the model itself."""
    torch.manual_seed(1)
    model.train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
    with inplace_ops(model, enabled):
        nn.functional.cross_entropy(model(torch.randn(3, 3, 8, 8)), torch.arange(3)).backward()


def test_hooks_of_all_modules_see_every_input() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *call: None)
    try:
        assert not inplace_names(create_model(TINY))
    finally:
        handle.remove()


def test_modules_held_in_two_places_stay() -> None:
    model = create_model(TINY)
    model.get_submodule("layer1.0").add_module("act1", model.get_submodule("act1"))
    assert not {"act1", "layer1.0.act1"} & inplace_names(model)
    model = create_model(TINY, order="norm-free-preact", norm="none")
    block = model.get_submodule("layer1.1")
    block.add_module("act1", block.get_submodule("act2"))  # of the same parent
    assert not {name for name in inplace_names(model) if name.startswith("layer1.1.act")}


class Wrapper(nn.Module):
    """Reads a tensor within the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        conv1, bn1, act1 = (self.network.get_submodule(name) for name in ("conv1", "bn1", "act1"))
        a = bn1(conv1(x))
        return torch.cat([a, act1(a)], 1).flatten(2).mean(2)


class Twice(ResidualBlock):
    """Reads the sum again, after the block's activation."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.merge is not None
        assert self.downsample is not None
        y: Tensor = self.merge(x, self.downsample(x), self.branch(x))
        return self.post(y) + y


class BlockHead(nn.Module):
    """A head that reads a tensor within one of the network's blocks."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.fc = block, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        conv1, bn1, act1 = (self.block.get_submodule(name) for name in ("conv1", "bn1", "act1"))
        a = bn1(conv1(x[:, :, None, None]))
        return self.fc((a - act1(a)).flatten(1))


class NetworkOfAUser(ResidualNetwork):
    """A derived network may read any layer."""


def test_modules_of_users_and_what_is_inside_of_them_stay() -> None:
    assert not inplace_names(Wrapper(create_model(TINY)))
    assert_equal_results(Wrapper(create_model(TINY)))
    assert not inplace_names(NetworkOfAUser(TINY))
    model = create_model(TINY)
    model.fc = BlockHead(model.get_submodule("layer2.1"))
    names = inplace_names(model)
    assert names
    assert not {name for name in names if name.startswith("layer2.1")}
    assert_equal_results(model)
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    foreign(torch.zeros(1, 3, 8, 8))
    assert not inplace_names(foreign)


def test_replaced_parts_and_methods_stay() -> None:
    torch.manual_seed(0)
    for change, kept in REPLACEMENTS.items():
        model = create_model(TINY)
        block = model.get_submodule("layer1.0")
        assert isinstance(block, ResidualBlock)
        every_name = inplace_names(model)
        change(block)
        assert every_name - inplace_names(model) == {f"layer1.0.{name}" for name in kept}
        assert_equal_results(model)


def replace_merge(block: ResidualBlock) -> None:
    class Mean(nn.Module):
        def forward(self, block_input: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
            return (shortcut + branch) / 2

    block.merge = Mean()  # type: ignore[assignment]


def replace_forward(block: ResidualBlock) -> None:
    norm = block.get_submodule("bn2")
    plain_forward = norm.forward
    norm.forward = lambda x: plain_forward(x).exp()  # the gradient of exp needs its output


def replace_function(block: ResidualBlock) -> None:
    assert isinstance(block.merge, FunctionMerge)
    block.merge.function = lambda shortcut, branch: shortcut + 0.5 * branch


def replace_combine(block: ResidualBlock) -> None:
    assert block.merge is not None
    block.merge.combine = lambda block_input, shortcut, branch: shortcut  # type: ignore[method-assign]


def derive(block: ResidualBlock) -> None:
    block.__class__ = Twice


def replace_branch(block: ResidualBlock) -> None:
    plain_branch = block.branch
    block.branch = lambda p: plain_branch(p).exp()  # type: ignore[method-assign]


REPLACEMENTS: dict[Callable[[ResidualBlock], None], set[str]] = {
    replace_merge: {"merge", "act2"},
    replace_function: {"merge", "act2"},
    replace_combine: {"merge", "act2"},
    replace_forward: {"merge"},
    derive: {"act1", "merge", "act2"},
    replace_branch: {"act1", "merge", "act2"},
}


def test_a_branch_that_is_broadcast_is_added_as_before() -> None:
    """A registered operation may return N C 1 1."""
    torch.manual_seed(0)
    model = create_model(TINY, depths=(1,), widths=(4,), strides=(1,))
    block = model.get_submodule("layer1.0")
    block.add_module("act1", nn.AdaptiveAvgPool2d(1))
    block.add_module("conv2", nn.Conv2d(4, 4, 1))
    assert "layer1.0.merge" in inplace_names(model)
    assert_equal_results(model)


@pytest.mark.parametrize("model", ["unet_resnet18", "fasterrcnn_resnet18_fpn_320"])
def test_the_backbone_of_segmentation_networks_and_detectors_works_in_place(model: str) -> None:
    torch.manual_seed(0)
    network = create_model(model, num_classes=3)
    assert len(inplace_names(network)) > 20
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    boxes = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
    found = []
    for enabled in (False, True):
        copied = copy.deepcopy(network).train()
        torch.manual_seed(1)
        with inplace_ops(copied, enabled):
            if "rcnn" in model:
                loss = sum(copied(images, [boxes, boxes]).values())
            else:
                loss = copied(torch.stack(images)).square().mean()
            loss.backward()
        found.append([loss, *(weight.grad for weight in copied.parameters() if weight.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
