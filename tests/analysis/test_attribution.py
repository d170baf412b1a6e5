"""Grad-CAM, integrated gradients and occlusion against captum, and the identities the papers state."""

from collections.abc import Callable

import captum.attr
import pytest
import torch
import torchvision
from torch import Tensor, nn

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.nn.factory import create_model


def ours() -> nn.Module:
    return create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=4)


def preactivated() -> nn.Module:
    return create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=4, order="full-preact")


def torchvisions() -> nn.Module:
    return torchvision.models.resnet18(num_classes=4)


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = make().eval()
    return model, torch.randn(3, 3, 16, 16), torch.tensor([0, 3, 1])


MODELS = pytest.mark.parametrize("make", [ours, preactivated, torchvisions])


@MODELS
@pytest.mark.parametrize("layer", ["layer1.0", "layer3.0", "conv1"])
def test_grad_cam_is_captums(make: Callable[[], nn.Module], layer: str) -> None:
    model, x, target = made(make)
    theirs = captum.attr.LayerGradCam(model, model.get_submodule(layer))
    expected = theirs.attribute(x, target, relu_attributions=True)[:, 0]
    torch.testing.assert_close(grad_cam(model, x, target, layer), expected.detach(), atol=1e-6, rtol=1e-4)
    assert torch.equal(grad_cam(model, x, target, model.get_submodule(layer)), grad_cam(model, x, target, layer))


@MODELS
def test_integrated_gradients_are_captums(make: Callable[[], nn.Module]) -> None:
    model, x, target = made(make)
    expected = captum.attr.IntegratedGradients(model).attribute(x, torch.zeros_like(x), target, n_steps=5)
    torch.testing.assert_close(integrated_gradients(model, x, target, 0.0, 5), expected.float(), atol=1e-5, rtol=1e-3)


def test_integrated_gradients_are_complete() -> None:
    model, x, target = made(lambda: create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=4, act="tanh"))
    baseline = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        rise = (model(x) - model(baseline)).gather(1, target[:, None])[:, 0]
    result = integrated_gradients(model, x, target, baseline, 60).sum((1, 2, 3))
    torch.testing.assert_close(result, rise, atol=2e-3, rtol=1e-2)


def test_of_a_linear_network_they_are_weight_times_input() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False)), torch.randn(3, 3, 2, 2)
    result = integrated_gradients(model, x, torch.tensor([0, 1, 1]), num_steps=1)
    expected = model[1].weight[[0, 1, 1]].view(3, 3, 2, 2) * x
    torch.testing.assert_close(result, expected.detach())


@pytest.mark.parametrize(("size", "stride"), [(8, 8), (8, 4), (7, 6), (16, 1)])
def test_occlusion_is_captums(size: int, stride: int) -> None:
    model, x, target = made(ours)
    theirs = captum.attr.Occlusion(model)
    expected = theirs.attribute(x, (3, size, size), (3, stride, stride), baselines=0.5, target=target)
    torch.testing.assert_close(
        occlusion(model, x, target, size, stride, 0.5), expected[:, 0].float(), atol=1e-5, rtol=1e-3
    )


def test_outputs_are_recorded_before_an_in_place_layer_changes_them() -> None:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 2, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    x, target = torch.randn(2, 1, 6, 6), torch.tensor([0, 1])
    there, away = (nn.Sequential(conv, nn.ReLU(inplace=inplace), head) for inplace in (True, False))
    assert torch.equal(grad_cam(there, x, target, "0"), grad_cam(away, x, target, "0"))


def test_all_hooks_are_removed() -> None:
    model, x, target = made(ours)
    grad_cam(model, x, target, "layer1.0")
    integrated_gradients(model, x, target, num_steps=2)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_invalid_options_are_errors() -> None:
    model, x, target = made(ours)
    with pytest.raises(ValueError, match=r"unknown layer 'layer1\.9'; nearest: 'layer1\.0'"):
        grad_cam(model, x, target, "layer1.9")
    with pytest.raises(ValueError, match="a layer with maps"):
        grad_cam(model, x, target, "fc")
    with pytest.raises(ValueError, match="num_steps of at least 1"):
        integrated_gradients(model, x, target, num_steps=0)
    with pytest.raises(ValueError, match="a size up to 16; got: size 4, stride 5"):
        occlusion(model, x, target, 4, 5)
