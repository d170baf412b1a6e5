"""Distillation against its formula and timm's; teachers as runs keep them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from reslab.data.registry import open_data
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import Network
from reslab.spec.preprocess import Preprocess
from reslab.training.distillation import Distillation, Renormalised, read_teacher
from reslab.training.losses import build_loss

SMALL = {"depths": (1, 1, 1), "widths": (4, 8, 16), "stem": "conv3(4) norm act"}


def test_it_is_the_formula_and_the_teacher_learns_nothing() -> None:
    torch.manual_seed(0)
    teacher = nn.Linear(6, 3, dtype=torch.float64)
    x, z = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y, loss = torch.arange(5) % 3, build_loss("cross-entropy", 0.1)
    found = Distillation(loss, teacher, alpha=0.7, temperature=4.0)(z, y, x)
    soft, taught = (z / 4).softmax(1), (teacher(x) / 4).softmax(1)
    divergence = (taught * (taught / soft).log()).sum(1).mean()
    torch.testing.assert_close(found, 0.3 * loss(z, y) + 0.7 * 16 * divergence, rtol=1e-12, atol=0)
    found.backward()
    assert teacher.weight.grad is None


def test_at_temperature_1_its_gradient_is_that_of_cross_entropy_to_the_teachers_shares() -> None:
    torch.manual_seed(0)
    teacher, x = nn.Linear(6, 3, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    first, second = (torch.ones(5, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    Distillation(build_loss("cross-entropy"), teacher, alpha=1.0)(first, torch.zeros(5, dtype=torch.long), x).backward()
    functional.cross_entropy(second, teacher(x).softmax(1).detach()).backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-12, atol=1e-15)


def saved(path: Path, classes: tuple[str, ...], preprocess: Preprocess, channels: int = 1) -> Network:
    torch.manual_seed(1)
    network = create_model("resnet20_cifar", num_classes=len(classes), in_channels=channels, **SMALL)
    assert isinstance(network, Network)
    network.classes, network.preprocess = classes, preprocess
    save_weights(path, network)
    return network.eval()


def test_a_teacher_sees_pictures_as_it_was_trained_to(tmp_path: Path) -> None:
    data = open_data("digits")
    own = replace(data.preprocess, mean=(0.5,), std=(0.25,))
    network = saved(tmp_path / "own.safetensors", data.classes, own)
    teacher = read_teacher(tmp_path / "own.safetensors", data)
    assert isinstance(teacher, Renormalised)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    pixels = torch.rand(4, 1, 8, 8)
    mean, std = data.preprocess.mean[0], data.preprocess.std[0]
    expected = network((pixels - 0.5) / 0.25)
    torch.testing.assert_close(teacher((pixels - mean) / std), expected, rtol=1e-4, atol=1e-5)
    saved(tmp_path / "same.safetensors", data.classes, data.preprocess)
    assert isinstance(read_teacher(tmp_path / "same.safetensors", data), Network)


def test_a_teacher_of_other_classes_or_channels_is_refused(tmp_path: Path) -> None:
    data = open_data("digits")
    saved(tmp_path / "classes.safetensors", tuple(reversed(data.classes)), data.preprocess)
    with pytest.raises(ValueError, match="classes in their order"):
        read_teacher(tmp_path / "classes.safetensors", data)
    colours = Preprocess(3, "", (0.5,) * 3, (0.5,) * 3)
    saved(tmp_path / "colour.safetensors", data.classes, colours, channels=3)
    with pytest.raises(ValueError, match="a teacher of 1 channels"):
        read_teacher(tmp_path / "colour.safetensors", data)
