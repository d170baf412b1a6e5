"""Convolutions of few channels as one matrix product."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reslab.nn.factory import create_model
from reslab.nn.patch_convs import patch_convs, product_conv


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"), [(1, 7, 2, 3), (3, 3, 1, 1), (2, 5, 3, 0), (4, 3, 2, 1)]
)
def test_product_has_outputs_and_gradients_of_the_convolution(
    channels: int, kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels, 13, 11, dtype=torch.float64)
    weight = torch.randn(6, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    expected = functional.conv2d(x, weight, stride=stride, padding=padding)
    result = product_conv(x, weight, (stride, stride), (padding, padding))
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(expected)
    expected_grad, result_grad = (torch.autograd.grad(y, weight, gradient)[0] for y in (expected, result))
    torch.testing.assert_close(result_grad, expected_grad)


def test_network_is_the_same_inside_and_unchanged_after() -> None:
    torch.manual_seed(0)
    model = create_model("resnet18_d2l", num_classes=3).double().train()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    outputs, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with patch_convs(model, enabled):
            changed = [name for name, module in model.named_modules() if type(module).__name__ == "_PatchConv2d"]
            assert changed == (["conv1"] if enabled else [])
            output = model(x)
            output.square().sum().backward()
        outputs.append(output)
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
    assert not any(type(module).__name__ == "_PatchConv2d" for module in model.modules())


def test_input_with_gradient_is_convolved_directly() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=True))
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    expected = model(x)
    with patch_convs(model):
        assert torch.equal(model(x), expected)
        torch.testing.assert_close(model(x.detach()), expected)
