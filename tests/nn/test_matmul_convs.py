"""Convolutions that training steps compute in another way: outputs, gradients and the rules that choose them."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.nn import matmul_convs as module
from reslab.nn.factory import create_model
from reslab.nn.matmul_convs import float32_convs, patch_convs, product_conv, tap_convs
from reslab.nn.operations.convs import WEIGHTED_CONVS

Results = tuple[Tensor, Tensor, Tensor]


def run(conv: nn.Conv2d, x: Tensor, grad: Tensor | None = None) -> Results:
    """Return the output and the gradients of the input and of the weight."""
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    output = conv(x)
    torch.manual_seed(1)
    output.backward(torch.randn_like(output) if grad is None else grad)
    assert x.grad is not None
    assert conv.weight.grad is not None
    results = output.detach(), x.grad, conv.weight.grad
    conv.weight.grad = None
    return results


def make_conv(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int], stride: int, padding: int
) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    return conv.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [2, 3, 5, (1, 3)])
def test_outputs_and_gradients_equal_the_convolution(
    kernel: int | tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_CHANNELS", 4)
    monkeypatch.setattr(module, "CHANNELS_PER_POSITION", 1 / 4)
    num_cases = 0
    for stride, padding, height, width in itertools.product((1, 2, 3), (0, 1, 2), range(1, 6), (1, 3, 4)):
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        if min(height + 2 * padding - sides[0], width + 2 * padding - sides[1]) < 0:
            continue
        conv = make_conv(4, 6, kernel, stride, padding)
        x = torch.randn(3, 4, height, width)
        reference = run(conv, x)
        with tap_convs(conv):
            assert is_tapped(conv, x) == (reference[0].shape[2] * reference[0].shape[3] <= 16)
            actual = run(conv, x)
        for own, expected in zip(actual, reference, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=2e-5)
        num_cases += 1
    assert num_cases > 60


def is_tapped(conv: nn.Conv2d, x: Tensor) -> bool:
    return "TapConv" in type(conv(x.contiguous(memory_format=torch.channels_last)).grad_fn).__name__


@pytest.mark.parametrize(
    ("channels", "side", "tapped"), [(64, 1, False), (128, 2, True), (128, 3, False), (256, 4, True)]
)
def test_the_shapes_decide(channels: int, side: int, tapped: bool) -> None:
    conv, x = make_conv(channels, channels, 3, 1, 1), torch.randn(2, channels, side, side)
    with tap_convs(conv):
        assert is_tapped(conv, x) == tapped
    assert not is_tapped(conv, x)
    assert type(conv) is nn.Conv2d


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(256, 256, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(256, 256, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(256, 256, 3, padding="same", bias=False),
        nn.Conv2d(256, 256, 1, bias=False),
    ],
)
def test_other_convolutions_stay(conv: nn.Conv2d) -> None:
    conv = conv.to(memory_format=torch.channels_last)
    with tap_convs(conv):
        assert not is_tapped(conv, torch.randn(2, 256, 2, 2))


def test_bfloat16_rounds_like_the_convolution() -> None:
    """Relative to float64 neither the outputs nor the gradients are further off than twice the convolution's."""
    torch.manual_seed(0)
    conv, x = make_conv(256, 256, 3, 1, 1), torch.randn(8, 256, 3, 3)
    conv.weight.data = conv.weight.data.bfloat16().float()
    x = x.bfloat16().float()
    grad = torch.randn(8, 256, 3, 3).bfloat16()
    exact = run(conv.double(), x.double(), grad.double())
    conv.float()
    with torch.autocast("cpu", torch.bfloat16):
        reference = run(conv, x, grad)
        with tap_convs(conv):
            assert is_tapped(conv, x)
            actual = run(conv, x, grad)
    for own, expected, truth in zip(actual, reference, exact, strict=True):
        assert own.dtype == expected.dtype
        assert (own - truth).norm() <= 2 * (expected - truth).norm()


def test_a_bias_is_added_and_has_its_gradient() -> None:
    conv, x = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last), torch.randn(2, 256, 2, 2)
    assert conv.bias is not None
    reference = run(conv, x)[0], conv.bias.grad
    conv.bias.grad = None
    with tap_convs(conv):
        actual = run(conv, x)[0], conv.bias.grad
    torch.testing.assert_close(actual, reference)


def test_two_runs_are_equal_to_the_bit() -> None:
    conv, x = make_conv(256, 256, 3, 1, 1), torch.randn(16, 256, 3, 3)
    with tap_convs(conv):
        first, second = run(conv, x), run(conv, x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


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


class OwnConv2d(nn.Conv2d):
    """Calls the function itself."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(input, self.weight, self.bias, self.stride, self.padding)


def weighted(kind: str, dims: int = 2) -> nn.Module:
    return WEIGHTED_CONVS[kind, dims](16, 64, 3, 2, 1)


NARROW_CONVS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "stride 2": (lambda: nn.Conv2d(16, 64, 3, 2, 1), (4, 16, 3, 1)),
    "stride 3": (lambda: nn.Conv2d(16, 64, 3, 3, 1), (4, 16, 3, 2)),
    "stride 4": (lambda: nn.Conv2d(16, 64, 3, 4, 1), (4, 16, 3, 3)),
    "groups": (lambda: nn.Conv2d(32, 64, 3, 2, 1, groups=2), (8, 32, 3, 1)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=8), (2, 8, 3, 1)),
    "1 dimension": (lambda: nn.Conv1d(16, 64, 3, 2, 1), (4, 16, 1)),
    "3 dimensions": (lambda: nn.Conv3d(16, 64, 3, 2, 1), (4, 16, 3, 3, 1)),
    "transposed": (lambda: nn.ConvTranspose2d(64, 16, 3, 2, 1), (4, 64, 2, 1)),
    "transposed, 1 dimension": (lambda: nn.ConvTranspose1d(64, 16, 3, 2, 1), (4, 64, 1)),
    "patches": (lambda: nn.Conv2d(16, 64, 4, 4), (4, 16, 8, 4)),
    "patches, padding by name": (lambda: nn.Conv2d(16, 64, 4, 4, "valid"), (4, 16, 4, 4)),
    "patches, transposed": (lambda: nn.ConvTranspose2d(64, 16, 4, 4), (4, 64, 3, 1)),
    "standardized": (lambda: weighted("Standardized"), (4, 16, 3, 1)),
    "scaled standardized": (lambda: weighted("ScaledStandardized"), (4, 16, 3, 1)),
    "standardized, 3 dimensions": (lambda: weighted("Standardized", 3), (4, 16, 3, 3, 1)),
    "Dirac": (lambda: weighted("Dirac"), (4, 16, 3, 1)),
    "a class of one's own": (lambda: OwnConv2d(16, 64, 3, 2, 1), (4, 16, 3, 1)),
}


def all_gradients(conv: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output and the gradients of the input and of all parameters, for the same gradient of the output."""
    conv.zero_grad()
    x = x.detach().requires_grad_()
    output = conv(x)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    output.backward(grad.to(output.dtype))
    return [output.detach(), *(tensor.grad.clone() for tensor in (x, *conv.parameters()) if tensor.grad is not None)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NARROW_CONVS)
def test_narrow_maps_have_the_gradients_of_float32_in_bfloat16(name: str, memory_format: torch.memory_format) -> None:
    """oneDNN's gradient of the weights has values of memory that was freed: here of tensors of 1e20.

    Depthwise and of patches it is wrong in channels-last alone.
    """
    torch.manual_seed(0)
    make, shape = NARROW_CONVS[name]
    conv, x = make(), torch.randn(shape)
    if len(shape) == 4:
        conv, x = conv.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
    reference = all_gradients(conv, x)
    for _ in range(5):
        freed = [torch.full((size,), 1e20) for size in (64, 1024, 4096, 16384, 65536)]
        del freed
        with tap_convs(conv), float32_convs(conv), torch.autocast("cpu", torch.bfloat16):
            actual = all_gradients(conv, x)
        assert actual[0].dtype == torch.bfloat16
        assert len(actual) == len(reference) >= 3
        for own, expected in zip(actual, reference, strict=True):
            assert (own - expected).norm() <= 2**-8 * expected.norm()  # one rounding to bfloat16


def test_only_kernels_with_wide_steps_are_exchanged() -> None:
    model = create_model("resnet18_d2l", num_classes=3)
    classes = [type(module) for module in model.modules()]
    with float32_convs(model):
        exchanged = [name for name, module in model.named_modules() if type(module).__name__ == "Float32Conv2d"]
    assert len(exchanged) == 4
    strides = [module.stride for name, module in model.named_modules() if name in exchanged]
    assert strides == [(2, 2)] * 4
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 2), (torch.float16, 1)])
def test_wide_maps_and_other_types_are_convolved_as_before(dtype: torch.dtype, width: int) -> None:
    conv, x = nn.Conv2d(2, 4, 3, 2, 1), torch.randn(2, 2, 3, width)
    with torch.autocast("cpu", dtype):
        expected = conv(x)
        with float32_convs(conv):
            result = conv(x)
    assert torch.equal(result, expected)
    assert result.dtype == dtype
