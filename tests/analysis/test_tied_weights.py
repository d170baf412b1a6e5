"""A network of the user's own with tied weights (`n * [block]`): trained, analyzed and counted as the loop it is."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.gradients import GradientOptions, analyze_gradients
from reslab.analysis.open_targets import target_from_module
from reslab.analysis.registry import ANALYSES, run_analysis
from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.nn.cost import layer_table
from reslab.training.train import train

NUM_BLOCKS = 3
IMAGES = torch.rand((24, 1, 8, 8), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


class ResBlock(nn.Module):
    """conv, norm, ReLU, and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))) + x


class Repeated(nn.Module):
    """`n * [ResBlock]`: one block under several names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(*(NUM_BLOCKS * [ResBlock(4)]))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Looped(nn.Module):
    """The same network with one block that is called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = ResBlock(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(NUM_BLOCKS):
            x = self.block(x)
        return self.fc(x.mean((2, 3)))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers under every name they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter or buffer changes its identity, value, device or gradient, and no hook stays."""
    before = {name: (id(tensor), tensor.detach().clone(), tensor.device) for name, tensor in tensors(model).items()}
    yield
    after = tensors(model)
    assert after.keys() == before.keys()
    for name, (key, value, device) in before.items():
        assert (id(after[name]), after[name].device) == (key, device), name
        assert torch.equal(after[name], value), name
        assert after[name].grad is None, name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def fit(model: nn.Module, path: Path) -> Any:
    return train(model, (IMAGES, LABELS), epochs=2, batch_size=8, seed=1, output=path, on_log=lambda line: None)


def test_training_keeps_weights_tied_and_equals_that_of_a_loop(tmp_path: Path) -> None:
    model, looped = Repeated(), Looped()
    before = {name: (id(tensor), tensor.device) for name, tensor in tensors(model).items()}
    first = copy.deepcopy(model.state_dict())
    run = fit(model, tmp_path / "tied")
    after = tensors(model)
    assert {name: (id(tensor), tensor.device) for name, tensor in after.items()} == before
    assert not torch.equal(after["blocks.0.conv.weight"], first["blocks.0.conv.weight"])
    fit(looped, tmp_path / "looped")
    expected = tensors(looped)
    for name, tensor in after.items():
        parts = name.split(".")
        reference = expected[".".join(["block", *parts[2:]]) if parts[0] == "blocks" else name]
        assert torch.equal(tensor, reference), name
    saved = read_tensors(run.weights_path)
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


# These need the two paths of a block apart, which a module that equals no network of the zoo does not show.
NEEDS_PATHS = ("telescope", "scaling", "orders")


@pytest.mark.parametrize("name", ANALYSES)
def test_no_analysis_changes_it(name: str) -> None:
    model = Repeated()
    target = target_from_module(model, IMAGES, LABELS)
    targets = [target, target] if ANALYSES[name].run is None else [target]
    with unchanged(model):
        if name in NEEDS_PATHS:
            with pytest.raises(ValueError, match="a residual network that equals one of the zoo"):
                run_analysis(name, targets)
        else:
            assert run_analysis(name, targets)


def test_gradients_of_a_fresh_one_are_those_of_each_call() -> None:
    model = Repeated()
    with unchanged(model):
        result = analyze_gradients(target_from_module(model, IMAGES, LABELS), GradientOptions())
    reference = Looped().train()
    x, inputs = reference.stem(IMAGES), []
    for _ in range(NUM_BLOCKS):
        x.retain_grad()
        inputs.append(x)
        x = reference.block(x)
    functional.cross_entropy(reference.fc(x.mean((2, 3))), LABELS).backward()
    assert [block.label for block in result.blocks] == ["blocks.0", "blocks.0 (2)", "blocks.0 (3)"]
    assert [block.input_norm for block in result.blocks] == pytest.approx([float(x.grad.norm()) for x in inputs], 1e-5)
    weight_norm = float(reference.block.conv.weight.grad.norm())
    assert [block.weight_norm for block in result.blocks] == pytest.approx(NUM_BLOCKS * [weight_norm], 1e-5)


def test_the_cost_counts_each_call_once_and_each_weight_once() -> None:
    model = Repeated()
    with unchanged(model):
        rows = layer_table(model, (1, 8, 8))
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in model.parameters())
    convs = [row.macs for row in rows if row.kind == "Conv2d"]
    assert convs == [64 * 4 * 9, *NUM_BLOCKS * [64 * 4 * 4 * 9]]
