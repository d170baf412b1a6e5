"""Packed convolutions against torch's own."""

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from reslab.deploy.backends import registry
from reslab.deploy.backends.registry import PackedConv2d, can_pack, pack_convolutions

CPU = torch.device("cpu")
CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
    {"kernel_size": (1, 3), "padding": (0, 1)},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
    {"kernel_size": 3, "padding": 1, "groups": 16},
]
pytestmark = pytest.mark.skipif(not can_pack(torch.float32, CPU), reason="no packed convolutions on this machine")


@pytest.mark.parametrize("options", CONVS)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_outputs_equal_those_of_the_convolution(options: dict, memory_format: torch.memory_format) -> None:
    conv = nn.Conv2d(16, 32, **options).requires_grad_(False).to(memory_format=memory_format)
    packed = PackedConv2d(conv)
    with torch.inference_mode():
        for size in ((1, 16, 20, 20), (5, 16, 9, 31), (1, 16, 20, 20)):  # packed for the first
            x = torch.randn(size).contiguous(memory_format=memory_format)
            torch.testing.assert_close(packed(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="no bf16 in oneDNN on this processor")
def test_bf16_outputs_equal_those_of_the_convolution() -> None:
    conv = nn.Conv2d(16, 32, 3, padding=1).requires_grad_(False).to(torch.bfloat16)
    x = torch.randn(2, 16, 12, 12, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(PackedConv2d(conv)(x), conv(x), rtol=0.02, atol=0.02)


@pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="no bf16 in oneDNN on this processor")
@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_bf16_outputs_on_maps_as_wide_as_the_stride(side: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 64, 4, stride=4).requires_grad_(False)
    x = torch.randn(2, 16, side, side).contiguous(memory_format=memory_format)
    packed = PackedConv2d(conv.to(torch.bfloat16, memory_format=memory_format))
    with torch.inference_mode():
        expected = nn.functional.conv2d(x.bfloat16().float(), conv.weight.float(), conv.bias.float(), 4)
        torch.testing.assert_close(packed(x.bfloat16()).float(), expected, rtol=0.02, atol=0.02)


def test_threads_may_share_a_convolution_from_the_first_call_on() -> None:
    conv = nn.Conv2d(16, 32, 3).requires_grad_(False)
    x = torch.randn(1, 16, 12, 12)
    expected = conv(x)
    for _ in range(10):
        packed = PackedConv2d(conv)
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda _, packed=packed: packed(x), range(8)))
        for output in outputs:
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


class _ScaledConv2d(nn.Conv2d):
    """Computes with other weights than it stores."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, 2 * self.weight)


def test_only_plain_convolutions_are_packed() -> None:
    names = ("plain", "same", "reflect", "scaled")
    convs = (
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        _ScaledConv2d(3, 4, 3, bias=False),
    )
    network = nn.ModuleDict(dict(zip(names, convs, strict=True)))
    pack_convolutions(network)
    assert [name for name in names if isinstance(network[name], PackedConv2d)] == ["plain"]


def test_nothing_is_packed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack(torch.float32, torch.device("meta"))
    assert not can_pack(torch.float16, CPU)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert not registry.can_pack(torch.float32, CPU)
