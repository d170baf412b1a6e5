"""Layer responses in every block layout and in third-party modules, against computations by hand."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.responses import ResponseOptions, analyze_responses
from reslab.nn.factory import create_model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 3])


def test_responses_of_the_original_order_equal_a_calculation_by_hand() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(2,), widths=(16,), strides=(1,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 2.0)
            nn.init.uniform_(module.running_mean, -1.0, 1.0)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x, y = batch()
    result = {
        layer.name: layer for layer in analyze_responses(target_from_module(model, x, y), ResponseOptions()).layers
    }
    assert list(result) == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"]
    assert all(layer.after_norm for layer in result.values())
    model.eval()
    with torch.no_grad():
        inside = model.forward_stem(x)
        block = model.layer1[0]
        first = block.bn1(block.conv1(inside))
        second = block.bn2(block.conv2(block.act1(first)))
    assert result["layer1.0.conv1"].std == pytest.approx(float(first.std(correction=0)), rel=1e-5)
    assert result["layer1.0.conv2"].std == pytest.approx(float(second.std(correction=0)), rel=1e-5)


def test_in_full_preact_the_last_response_has_no_norm() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(2,), widths=(16,), strides=(1,), order="full-preact")
    x, y = batch()
    result = {
        layer.name: layer for layer in analyze_responses(target_from_module(model, x, y), ResponseOptions()).layers
    }
    assert result["layer1.0.conv1"].after_norm
    assert not result["layer1.0.conv2"].after_norm
    model.train()
    with torch.no_grad():
        branch = model.layer1[0].branch(model.layer1[0].pre(model.forward_stem(x)))
    assert result["layer1.0.conv2"].std == pytest.approx(float(branch.std(correction=0)), rel=1e-5)


def test_untrained_norms_make_every_response_one() -> None:
    [target] = open_targets(["resnet20_cifar"], num_images=16)
    result = analyze_responses(target, ResponseOptions())
    assert len(result.layers) == 19  # He et al. 2015, Fig. 7: all 3x3 layers of a network of 20
    assert [layer.std for layer in result.layers] == pytest.approx([1.0] * 19, abs=1e-2)
    assert list(result.sorted_std) == sorted(result.sorted_std, reverse=True)
    raw = analyze_responses(target, ResponseOptions(statistics="running"))
    assert max(raw.sorted_std) > 2


def test_responses_equal_those_of_torchvision_despite_in_place_relu() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4)
    ours = create_model("resnet18", num_classes=4)
    ours.load_state_dict(theirs.state_dict())
    x, y = batch()
    left = analyze_responses(target_from_module(theirs, x, y), ResponseOptions())
    right = analyze_responses(target_from_module(ours, x, y), ResponseOptions())
    assert {layer.name: pytest.approx(layer.std, rel=1e-5) for layer in left.layers} == {
        layer.name: layer.std for layer in right.layers
    }


def test_timm_s_norms_that_hold_their_activation_are_measured_ahead_of_it() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnetv2_50", num_classes=4, norm_layer="batchnorm", layers=(1, 1, 1, 1))
    x, y = batch()
    result = analyze_responses(target_from_module(model, x, y), ResponseOptions())
    normed = [layer.std for layer in result.layers if layer.after_norm]
    assert normed
    # After ReLU a standard normal signal has a deviation of 0.58.
    assert normed == pytest.approx([1.0] * len(normed), abs=0.02)


def test_kernel_sizes_select_convolutions() -> None:
    [target] = open_targets(["resnet50:depths=1,1,1,1:image_size=32,32"], data="random", num_images=2)
    assert len(analyze_responses(target, ResponseOptions(kernel_sizes=(3,))).layers) == 4
    with pytest.raises(ValueError, match="with kernel sizes 1, 3, 7"):
        analyze_responses(target, ResponseOptions(kernel_sizes=(5,)))
