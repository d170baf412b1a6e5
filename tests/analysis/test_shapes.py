"""Shapes and costs: the tutorial's counts, the paper's, and receptive fields measured by a gradient."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.registry import run_analysis
from reslab.analysis.shapes import CostResult, LayerOptions, ShapeResult, analyze_cost, analyze_shapes
from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.spec.layout import receptive_field
from reslab.spec.zoo import ARCHS


def shapes(name: str, **options: str) -> ShapeResult:
    [subject] = open_targets([name], data="random", num_images=2)
    [found] = run_analysis("shapes", [subject], options)
    assert isinstance(found, ShapeResult)
    return found


def cost(name: str, **options: str) -> CostResult:
    [subject] = open_targets([name], data="random", num_images=2)
    [found] = run_analysis("cost", [subject], options)
    assert isinstance(found, CostResult)
    return found


def test_the_second_convolution_of_book_net_sees_8_pixels() -> None:
    rows = {layer.name: layer for layer in shapes("book_net").layers}
    assert rows["conv1.3"].receptive_field == 8
    assert rows["conv1.3"].output_shape == (8, 16, 16)
    assert rows["fc.0"].receptive_field is None


def test_a_bottleneck_beside_a_basic_unit() -> None:
    """He et al. 2015, Fig. 5: 256-64-64-256 and 64-64, 'similar time complexity'."""
    bottleneck, basic = cost("resnet50", block="layer1.1"), cost("resnet34", block="layer1.1")
    assert (bottleneck.total.weights, basic.total.weights) == (69_632, 73_728)
    assert bottleneck.total.macs == 69_632 * 56 * 56
    assert basic.total.macs == 73_728 * 56 * 56


def test_a_unit_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"layer1\.9.*layer1\.2"):
        cost("resnet50", block="layer1.9")


@pytest.mark.parametrize("name", ["resnet20_cifar", "preresnet110_cifar", "resnet50d", "resnet18_a", "wrn28_10_cifar"])
def test_the_last_map_sees_what_the_formula_says(name: str) -> None:
    maps = [layer.receptive_field for layer in shapes(name).layers if len(layer.output_shape) == 3]
    assert [field for field in maps if field][-1] == receptive_field(ARCHS[name])


@pytest.mark.parametrize("dilated", [False, True])
def test_the_field_is_where_the_gradient_reaches(dilated: bool) -> None:
    """A place of an early map hears just those pixels that its receptive field holds."""
    last = nn.Conv2d(4, 4, 3, dilation=2) if dilated else nn.AvgPool2d(3, 2)
    model = nn.Sequential(nn.Conv2d(1, 4, 5, stride=2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, 1), last)
    images = torch.randn(1, 1, 63, 63, requires_grad=True)
    found = layer_table(model, (1, 63, 63))[-1].receptive_field
    output = model(images)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1.0)
    # Every winner of the max-pool is one of many: let each pixel win in turn by asking many noisy pictures.
    heard = torch.zeros(63, 63)
    for _ in range(40):
        images = torch.randn(1, 1, 63, 63, requires_grad=True)
        output = model(images)
        output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
        assert images.grad is not None
        heard += images.grad[0, 0].abs()
    rows = torch.nonzero(heard.sum(1)).flatten()
    assert int(rows.max() - rows.min()) + 1 == found


def test_modules_of_others_are_counted() -> None:
    subject = target_from_module(torchvision.models.resnet18(), torch.zeros(2, 3, 224, 224), torch.tensor([0, 1]))
    found = analyze_cost(subject, LayerOptions())
    assert found.total.params == 11_689_512
    assert [part.name for part in found.blocks][:3] == ["stem", "layer1.0", "layer1.1"]
    assert found.blocks[-1].name == "head"
    assert sum(part.macs for part in found.blocks) == found.total.macs == 1_814_073_344
    model = timm.create_model("resnetv2_50")
    fields = analyze_shapes(
        target_from_module(model, torch.zeros(1, 3, 224, 224), torch.tensor([0])), LayerOptions()
    ).layers
    assert max(layer.receptive_field or 0 for layer in fields) == receptive_field(ARCHS["resnetv2_50"])


def test_a_shared_unit_has_a_row_a_run_and_its_parameters_once() -> None:
    found = cost("book_resdeep:depths=3")
    names = [layer.name for layer in found.layers if layer.name.startswith("layer1.0.conv1")]
    assert names == ["layer1.0.conv1", "layer1.0.conv1 (2)", "layer1.0.conv1 (3)"]
    model = create_model("book_resdeep", depths=(3,))
    assert found.total.params == sum(parameter.numel() for parameter in model.parameters())


def test_activation_memory_is_four_bytes_a_number() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    found = analyze_cost(target_from_module(model, torch.zeros(1, 3, 6, 6), torch.tensor([0])), LayerOptions())
    assert found.total.activation_bytes == 2 * 4 * 8 * 6 * 6
