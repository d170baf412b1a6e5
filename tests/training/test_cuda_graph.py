"""Training steps in the fixed memory of a CUDA graph; `tests/gpu` has the checks of the graph itself."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from reslab.nn.factory import create_model
from reslab.spec.optim import GRAPH_OPTIMIZERS, OptimizerConfig
from reslab.spec.recipe import Recipe
from reslab.training.cuda_graph import GraphedStep
from reslab.training.loop import TrainStep
from reslab.training.optim.factory import build_optimizer, set_lr

CPU = torch.device("cpu")
RATES = (0.25, 0.125, 0.0625)  # exact in float32, in which a graph has its rates


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=4).train()


def make_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 16, 16, generator=generator), torch.randint(4, (8,), generator=generator)) for _ in RATES
    ]


def train(model: nn.Module, config: OptimizerConfig, is_graphed: bool) -> list[float]:
    """Train a step with each of the rates; return the losses."""
    optimizer = build_optimizer(model, config)
    step: Any = partial(TrainStep().run, model, functional.cross_entropy, optimizer)
    step = GraphedStep(step, optimizer, CPU) if is_graphed else step
    losses = []
    for lr, (x, y) in zip(RATES, make_batches(), strict=True):
        set_lr(optimizer, lr * (0.01 if config.name == "adamw" else 1))
        losses.append(float(step(x, y)["loss"]))
    return losses


@pytest.mark.parametrize("name", GRAPH_OPTIMIZERS)
def test_rate_as_tensor_gives_the_same_weights(name: str) -> None:
    config = OptimizerConfig(name, momentum=0.9, nesterov=True, weight_decay=0.01)
    models = [make_model(), make_model()]
    losses = [train(model, config, is_graphed) for model, is_graphed in zip(models, (False, True), strict=True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for expected, result in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_learning_rate_reaches_each_step() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def take(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        optimizer.zero_grad()
        loss = (model(x) * y).sum()  # its gradient is x y
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    step = GraphedStep(take, optimizer, CPU)
    for lr in RATES:
        set_lr(optimizer, lr)
        step(torch.ones(1, 1), torch.ones(1, 1))
    assert model.weight.item() == -sum(RATES)


def test_batch_of_another_shape_is_refused() -> None:
    model = make_model()
    optimizer = build_optimizer(model, OptimizerConfig())
    step = GraphedStep(partial(TrainStep().run, model, functional.cross_entropy, optimizer), optimizer, CPU)
    x, y = make_batches()[0]
    step(x, y)
    with pytest.raises(ValueError, match=r"required: batches of shape \(8, 3, 16, 16\).*cuda_graph=false"):
        step(x[:4], y[:4])
    with pytest.raises(ValueError, match="lists of images"):
        step(list(x), list(y))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optimizer": OptimizerConfig("lamb")}, "sgd, adamw, muon"),
        ({"precision": "fp16"}, "bf16"),
        ({"unfreeze": ("head: 0%",)}, "unfreeze"),
    ],
)
def test_recipe_refuses_what_cannot_be_captured(changes: dict[str, Any], text: str) -> None:
    recipe = Recipe("r", "", cuda_graph=True)
    with pytest.raises(ValueError, match=text):
        replace(recipe, **changes)
