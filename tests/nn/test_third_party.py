"""Networks of others read into the zoo's: the one that computes the same is found, and only that."""

import copy
import re

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from reslab.nn.factory import create_model
from reslab.nn.module_network import build_library_model, library_input_size
from reslab.nn.third_party import to_residual_network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_v1_strides(model: nn.Module) -> nn.Module:
    """Stride in the first 1x1 in place of the 3x3."""
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)  # type: ignore[index]
    return model


@pytest.mark.parametrize(
    ("make", "name", "order"),
    [
        (lambda: torchvision.models.resnet18(num_classes=5), "resnet18", "original"),
        (lambda: torchvision.models.resnet50(num_classes=5), "resnet50", "original"),
        (lambda: with_v1_strides(torchvision.models.resnet50()), "resnet50_v1", "original"),
        (lambda: timm.create_model("resnet18d", num_classes=5), "resnet18d", "original"),  # its branches end in zeros
        (lambda: timm.create_model("resnetv2_50", num_classes=5), "resnet50", "full-preact-identity"),
        (lambda: create_model("resnet20_cifar", shortcut="pad-split"), "resnet20_cifar", "original"),
    ],
    ids=["basic", "bottleneck", "v1", "timm", "preactivation", "ours"],
)
def test_the_network_that_computes_the_same(make, name: str, order: str, x: Tensor) -> None:
    torch.manual_seed(0)
    model = make().eval()
    result = to_residual_network(model, x)
    assert (result.arch.name, result.arch.order) == (name, order)
    assert not result.training
    with torch.no_grad():
        assert torch.allclose(result(x), model(x), rtol=1e-5, atol=1e-6)


def test_weights_are_copied_and_the_module_is_as_before(x: Tensor) -> None:
    model = torchvision.models.resnet18().double().train()
    before = copy.deepcopy(model.state_dict())
    result = to_residual_network(model, x.double())
    with torch.no_grad():
        result.fc.weight.zero_()  # type: ignore[union-attr]
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert next(result.parameters()).dtype == torch.float64


def test_equal_shapes_are_not_enough(x: Tensor) -> None:
    model = torchvision.models.resnet18()
    model.layer3[1].relu = nn.GELU()  # the names and shapes of resnet18, and another function
    message = "a ResNet; networks with the same shapes but other outputs: resnet18"
    with pytest.raises(ValueError, match=re.escape(message)):
        to_residual_network(model, x)


def test_a_branch_of_zeros_does_not_hide_what_is_in_it(x: Tensor) -> None:
    model = torchvision.models.resnet18()
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            nn.init.zeros_(block.bn2.weight)
    assert to_residual_network(model, x).arch.name == "resnet18"
    model.layer1[1].conv1.padding_mode = "circular"
    model.layer1[1].conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]
    with pytest.raises(ValueError, match="other outputs"):
        to_residual_network(model, x)


@pytest.mark.parametrize(
    "model",
    [torchvision.models.mobilenet_v2(width_mult=0.25), nn.Sequential(nn.Conv2d(3, 2, 3)), nn.Flatten()],
)
def test_what_is_no_residual_network_is_refused(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(ValueError, match="takes any module"):
        to_residual_network(model, x)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_by_name(name: str) -> None:
    model = build_library_model(name, {})
    shape = library_input_size(model)
    assert type(model).__name__ == "ResNet"
    assert shape == (3, 224, 224)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_an_unknown_name(library: str) -> None:
    with pytest.raises(ValueError, match=f"unknown model of {library} 'resnet118'.*'resnet18'"):
        build_library_model(f"{library}/resnet118", {})
