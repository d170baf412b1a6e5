"""The size of the weights in the loss, and the weight decay that equals it under plain SGD."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reslab.nn.checkpoints.safetensors_io import read_tensors
from reslab.nn.factory import create_model
from reslab.spec.optimizer import Optimizer
from reslab.training.gradient import Stepping
from reslab.training.optim.factory import build_optimizer
from reslab.training.penalty import size_penalty
from reslab.training.train import train


def test_sums_over_every_trained_parameter() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(-2.0)
    assert size_penalty(model, 0.0, 0.5).item() == 0.5 * 4 * 5
    assert size_penalty(model, 0.25, 0.0).item() == 0.25 * 2 * 5
    model[0].weight.requires_grad_(False)
    assert size_penalty(model, 0.25, 0.5).item() == 0.25 * 2 * 3 + 0.5 * 4 * 3


def stepped(stepping: Stepping, weight_decay: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = create_model("book_batchnorm").double()
    optimizer = build_optimizer(model, Optimizer(lr=0.05, momentum=0.0, weight_decay=weight_decay))
    draw = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(10):
        x = torch.randn((8, 3, 32, 32), generator=draw, dtype=torch.float64)
        stepping.take(model, functional.cross_entropy, optimizer, x, torch.arange(8) % 2)
    return [weight.detach() for weight in model.parameters()]


def test_the_book_s_l2_is_a_weight_decay_of_twice_lambda() -> None:
    penalised, decayed = stepped(Stepping(l2=0.01), 0.0), stepped(Stepping(), 0.02)
    torch.testing.assert_close(penalised, decayed, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(penalised[0], stepped(Stepping(), 0.0)[0], rtol=1e-6)


def test_parts_of_a_batch_are_penalised_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    x, y = torch.randn((6, 1, 2, 2), dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    found = []
    for parts in (1, 4):
        model.zero_grad()
        value, _ = Stepping(accumulate=parts, l1=0.1, l2=0.2).gradient(model, functional.cross_entropy, x, y)
        found.append((value, [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_a_run_with_either_is_the_same_network(tiny: dict[str, Any], tmp_path: Path) -> None:
    plain = {"optimizer.momentum": "0", "optimizer.nesterov": "false", "optimizer.decay_norm_and_bias": "true"}
    # A rate at which rounding does not grow: at 0.1 two such runs part within ten steps.
    plain |= {"optimizer.lr": "0.01", "optimizer.weight_decay": "0", "schedule.name": "constant"}
    base = {**tiny["settings"], **plain}
    found = []
    for name, said in (("a", {"l2": "0.001"}), ("b", {"optimizer.weight_decay": "0.002"}), ("c", {})):
        run = train(output=tmp_path / name, settings={**base, **said}, epochs=1, show=tiny["show"])
        found.append(read_tensors(run.weights_path))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=2e-6)
    assert max(float((found[0][name] - found[2][name]).abs().max()) for name in found[0]) > 1e-4
