"""Blocks of any network, their calls, and the memory that recording them takes."""

import pytest
import torch
import torchvision
from torch import nn

from reslab.analysis import layers
from reslab.analysis.gradients import GradientOptions, analyze_gradients
from reslab.analysis.layers import find_blocks, record_block_calls
from reslab.analysis.open_targets import open_targets
from reslab.analysis.signal import OrderOptions, analyze_orders
from reslab.nn.factory import create_model


def test_too_many_images_are_an_error_that_names_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), torch.zeros(10, 3, 4, 4)
    output_bytes = 2 * 8 * 16 * 4  # two outputs of 8x4x4 float32 numbers
    monkeypatch.setattr(layers, "read_free_bytes", lambda device: 5 * output_bytes)
    layers.check_memory(model, images, fraction=0.5)
    with pytest.raises(ValueError, match=r"10 images.*GiB.*--num-images 5"):
        layers.check_memory(model, images)
    monkeypatch.setattr(layers, "read_free_bytes", lambda device: None)
    layers.check_memory(model, images)


def test_memory_is_released_only_where_there_is_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = nn.Conv2d(3, 8, 3), torch.zeros(10, 3, 4, 4)
    calls: list[str] = []
    free_bytes = iter((10**9, 1, 10**9))
    monkeypatch.setattr(layers, "read_free_bytes", lambda device: next(free_bytes))
    monkeypatch.setattr(layers, "release_memory", lambda: calls.append("released"))
    layers.check_memory(model, images)
    assert not calls
    layers.check_memory(model, images)
    assert calls == ["released"]


def test_analyses_of_all_images_at_once_check_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    [target] = open_targets(["resnet20_cifar:depths=1,1,1"], data="random", num_images=4)
    monkeypatch.setattr(layers, "read_free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match="4 images"):
        analyze_gradients(target, GradientOptions())
    with pytest.raises(ValueError, match="4 images"):
        analyze_orders(target, OrderOptions())


def test_blocks_of_third_party_networks() -> None:
    names = [name for name, _ in find_blocks(torchvision.models.resnet18())]
    assert names == [f"layer{stage}.{index}" for stage in range(1, 5) for index in range(2)]
    chain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    assert [name for name, _ in find_blocks(chain)] == ["0", "2"]
    mobile = [name for name, _ in find_blocks(torchvision.models.mobilenet_v2())]
    assert "features.1" in mobile
    assert "features.17" in mobile
    assert [name for name, _ in find_blocks(create_model("book_net"))] == ["conv1.0", "conv1.3"]
    with pytest.raises(ValueError, match=r"nn\.Sequential"):
        find_blocks(nn.Conv2d(1, 1, 1))


def test_a_shared_block_has_several_calls_and_its_hooks_are_removed() -> None:
    model = create_model("book_resdeep", depths=(3,))
    with record_block_calls(model) as calls:
        model(torch.zeros(2, 3, 32, 32))
    assert [call.label for call in calls] == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)"]
    assert not any(block._forward_hooks for _, block in find_blocks(model))
