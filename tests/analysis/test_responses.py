"""Responses: measured by what reads what, the same in every order, in modules of others, and by hand."""

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


def test_by_hand_in_the_original_order() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(2,), widths=(16,), strides=(1,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 2.0)
            nn.init.uniform_(module.running_mean, -1.0, 1.0)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x, y = batch()
    found = {
        layer.name: layer for layer in analyze_responses(target_from_module(model, x, y), ResponseOptions()).layers
    }
    assert list(found) == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"]
    assert all(layer.after_norm for layer in found.values())
    model.eval()
    with torch.no_grad():
        inside = model.forward_stem(x)
        unit = model.layer1[0]
        first = unit.bn1(unit.conv1(inside))
        second = unit.bn2(unit.conv2(unit.act1(first)))
    assert found["layer1.0.conv1"].std == pytest.approx(float(first.std(correction=0)), rel=1e-5)
    assert found["layer1.0.conv2"].std == pytest.approx(float(second.std(correction=0)), rel=1e-5)


def test_in_full_preact_the_last_convolution_answers_bare() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(2,), widths=(16,), strides=(1,), order="full-preact")
    x, y = batch()
    found = {
        layer.name: layer for layer in analyze_responses(target_from_module(model, x, y), ResponseOptions()).layers
    }
    assert found["layer1.0.conv1"].after_norm
    assert not found["layer1.0.conv2"].after_norm
    model.train()
    with torch.no_grad():
        branch = model.layer1[0].branch(model.layer1[0].pre(model.forward_stem(x)))
    assert found["layer1.0.conv2"].std == pytest.approx(float(branch.std(correction=0)), rel=1e-5)


def test_untrained_norms_make_every_response_one() -> None:
    [subject] = open_targets(["resnet20_cifar"], num_images=16)
    found = analyze_responses(subject, ResponseOptions())
    assert len(found.layers) == 19  # He et al. 2015, Fig. 7: all 3x3 layers of a network of 20
    assert [layer.std for layer in found.layers] == pytest.approx([1.0] * 19, abs=1e-2)
    assert list(found.sorted_std) == sorted(found.sorted_std, reverse=True)
    raw = analyze_responses(subject, ResponseOptions(statistics="running"))
    assert max(raw.sorted_std) > 2


def test_ours_and_torchvision_s_answer_alike_though_relu_works_in_place() -> None:
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
    found = analyze_responses(target_from_module(model, x, y), ResponseOptions())
    normed = [layer.std for layer in found.layers if layer.after_norm]
    assert normed
    # After ReLU a standard normal signal has a deviation of 0.58.
    assert normed == pytest.approx([1.0] * len(normed), abs=0.02)


def test_kernels_choose_and_what_is_absent_is_told() -> None:
    [subject] = open_targets(["resnet50:depths=1,1,1,1:image_size=32,32"], data="random", num_images=2)
    assert len(analyze_responses(subject, ResponseOptions(kernel_sizes=(3,))).layers) == 4
    with pytest.raises(ValueError, match="with kernel sizes 1, 3, 7"):
        analyze_responses(subject, ResponseOptions(kernel_sizes=(5,)))
