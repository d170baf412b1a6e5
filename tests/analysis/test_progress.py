"""Pictures that do not fit the memory are refused before they are tried."""

import pytest
import torch
from torch import nn

from reslab.analysis import progress as room
from reslab.analysis.gradients import GradientOptions, analyze_gradients
from reslab.analysis.signal import OrderOptions, analyze_orders
from reslab.analysis.subject import open_targets


def test_what_it_would_need_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), torch.zeros(10, 3, 4, 4)
    one = 2 * 8 * 16 * 4  # two outputs of 8x4x4 float32 numbers
    monkeypatch.setattr(room.MemoryTracker, "free_bytes", lambda memory: 5 * one)
    room.check_memory(model, images, fraction=0.5)
    with pytest.raises(ValueError, match=r"10 pictures.*GiB.*--images 5"):
        room.check_memory(model, images)
    monkeypatch.setattr(room.MemoryTracker, "free_bytes", lambda memory: None)
    room.check_memory(model, images)


def test_questions_that_take_all_pictures_at_once_look_first(monkeypatch: pytest.MonkeyPatch) -> None:
    [subject] = open_targets(["resnet20_cifar:depths=1,1,1"], data="random", num_images=4)
    monkeypatch.setattr(room.MemoryTracker, "free_bytes", lambda memory: 1000)
    with pytest.raises(ValueError, match="4 pictures"):
        analyze_gradients(subject, GradientOptions())
    with pytest.raises(ValueError, match="4 pictures"):
        analyze_orders(subject, OrderOptions())
