"""Shapes and costs: the tutorial's counts, the paper's, and receptive fields measured by a gradient."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.registry import run_analysis
from reslab.analysis.shapes import CostOptions, CostResult, ShapeResult, analyze_cost, analyze_shapes
from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.spec.shapes import receptive_field
from reslab.spec.zoo import ARCHS


def shapes(name: str, **options: str) -> ShapeResult:
    [target] = open_targets([name], data="random", num_images=2)
    [result] = run_analysis("shapes", [target], options)
    assert isinstance(result, ShapeResult)
    return result


def cost(name: str, **options: str) -> CostResult:
    [target] = open_targets([name], data="random", num_images=2)
    [result] = run_analysis("cost", [target], options)
    assert isinstance(result, CostResult)
    return result


def test_the_second_convolution_of_book_net_sees_8_pixels() -> None:
    rows = {layer.name: layer for layer in shapes("book_net").layers}
    assert rows["conv1.3"].receptive_field == 8
    assert rows["conv1.3"].output_shape == (8, 16, 16)
    assert rows["fc.0"].receptive_field is None


def test_a_bottleneck_compared_with_a_basic_block() -> None:
    """He et al. 2015, Fig. 5: 256-64-64-256 and 64-64, 'similar time complexity'."""
    bottleneck, basic = cost("resnet50", block="layer1.1"), cost("resnet34", block="layer1.1")
    assert (bottleneck.total.weights, basic.total.weights) == (69_632, 73_728)
    assert bottleneck.total.macs == 69_632 * 56 * 56
    assert basic.total.macs == 73_728 * 56 * 56


def test_an_unknown_block_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"layer1\.9.*layer1\.2"):
        cost("resnet50", block="layer1.9")


@pytest.mark.parametrize("name", ["resnet20_cifar", "preresnet110_cifar", "resnet50d", "resnet18_a", "wrn28_10_cifar"])
def test_the_last_receptive_field_equals_the_formula(name: str) -> None:
    maps = [layer.receptive_field for layer in shapes(name).layers if len(layer.output_shape) == 3]
    assert [field for field in maps if field][-1] == receptive_field(ARCHS[name])


@pytest.mark.parametrize("dilated", [False, True])
def test_the_receptive_field_is_where_the_gradient_reaches(dilated: bool) -> None:
    """One output position depends exactly on the pixels of its receptive field."""
    last = nn.Conv2d(4, 4, 3, dilation=2) if dilated else nn.AvgPool2d(3, 2)
    model = nn.Sequential(nn.Conv2d(1, 4, 5, stride=2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, 1), last)
    images = torch.randn(1, 1, 63, 63, requires_grad=True)
    result = layer_table(model, (1, 63, 63))[-1].receptive_field
    output = model(images)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1.0)
    # The max-pool passes the gradient to one pixel of many: over many noisy images each pixel is the largest once.
    gradients = torch.zeros(63, 63)
    for _ in range(40):
        images = torch.randn(1, 1, 63, 63, requires_grad=True)
        output = model(images)
        output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
        assert images.grad is not None
        gradients += images.grad[0, 0].abs()
    rows = torch.nonzero(gradients.sum(1)).flatten()
    assert int(rows.max() - rows.min()) + 1 == result


def test_third_party_modules_are_counted() -> None:
    target = target_from_module(torchvision.models.resnet18(), torch.zeros(2, 3, 224, 224), torch.tensor([0, 1]))
    result = analyze_cost(target, CostOptions())
    assert result.total.params == 11_689_512
    assert [part.name for part in result.blocks][:3] == ["stem", "layer1.0", "layer1.1"]
    assert result.blocks[-1].name == "head"
    assert sum(part.macs for part in result.blocks) == result.total.macs == 1_814_073_344
    model = timm.create_model("resnetv2_50")
    fields = analyze_shapes(
        target_from_module(model, torch.zeros(1, 3, 224, 224), torch.tensor([0])), CostOptions()
    ).layers
    assert max(layer.receptive_field or 0 for layer in fields) == receptive_field(ARCHS["resnetv2_50"])


def test_a_shared_block_has_a_row_for_each_call_and_its_parameters_once() -> None:
    result = cost("book_resdeep:depths=3")
    names = [layer.name for layer in result.layers if layer.name.startswith("layer1.0.conv1")]
    assert names == ["layer1.0.conv1", "layer1.0.conv1 (2)", "layer1.0.conv1 (3)"]
    model = create_model("book_resdeep", depths=(3,))
    assert result.total.params == sum(parameter.numel() for parameter in model.parameters())


def test_activation_memory_is_four_bytes_a_number() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    result = analyze_cost(target_from_module(model, torch.zeros(1, 3, 6, 6), torch.tensor([0])), CostOptions())
    assert result.total.activation_bytes == 2 * 4 * 8 * 6 * 6
