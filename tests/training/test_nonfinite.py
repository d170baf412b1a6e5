"""The place where a number stopped being finite: images, a layer, the loss, a gradient, the step itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.training.freezing import Freezing
from reslab.training.loop import TrainLoop, TrainStep
from reslab.training.meters import NonFiniteError
from reslab.training.nonfinite import NonFiniteLocation, NonFiniteOrigin, Phase, find_non_finite
from reslab.training.train import train

BAD_STEP = 3


class Wheel:
    """Batches that are a function of the step; at one step an image may be broken."""

    num_steps_per_epoch = 4

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def iter_from(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        step = start_step
        while True:
            x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(step))
            if self.broken and step == BAD_STEP:
                x[1, 0, 0, 0] = float("nan")
            yield x, torch.arange(4) % 3, torch.arange(4) + 10 * step
            step += 1


class Breaking(nn.Module):
    """Adds inf at the fourth training step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + (float("inf") if self.calls == BAD_STEP + 1 else 0.0)


class InfiniteSlope(nn.Module):
    """x times an infinite gradient: sqrt(|x|) at 0, times 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x * 0).abs().sqrt()


def network(last: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers, *([last] if last else []))


def origin(
    model: nn.Module, batches: Wheel, loss: Any = functional.cross_entropy, lr: float = 0.1
) -> NonFiniteOrigin | None:
    return find_non_finite(steps(model, batches, loss), lambda step: lr, start=1, stop=8)


def steps(model: nn.Module, batches: Wheel, loss: Any, stepping: TrainStep | None = None) -> TrainLoop:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    freezing = Freezing(model, (), batches.num_steps_per_epoch, 100)
    return TrainLoop(
        model=model,
        loader=batches,
        loss=loss,
        optimizer=optimizer,
        train_step=stepping or TrainStep(),
        freezing=freezing,
        seed=0,
    )


def test_a_broken_image_is_named() -> None:
    result = origin(network(), Wheel(broken=True))
    assert result == NonFiniteOrigin(3, NonFiniteLocation(Phase.INPUT), (30, 31, 32, 33), (31,))


def test_the_first_layer_is_named() -> None:
    breaking = Breaking()
    breaking.calls = 1  # the steps start at 1
    result = origin(network(breaking), Wheel())
    assert result == NonFiniteOrigin(3, NonFiniteLocation(Phase.FORWARD, "4", "Breaking"), (30, 31, 32, 33))


def test_the_loss_is_named_where_the_outputs_are_finite() -> None:
    result = origin(network(), Wheel(), loss=lambda outputs, y: outputs.sum() * float("nan"))
    assert result == NonFiniteOrigin(1, NonFiniteLocation(Phase.LOSS), (10, 11, 12, 13))


def test_the_gradient_is_named_from_the_end() -> None:
    result = origin(network(InfiniteSlope()), Wheel())
    assert result is not None
    assert result.location == NonFiniteLocation(Phase.BACKWARD, "3.bias")


def test_a_step_that_is_too_large_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    result = origin(model, Wheel(), loss=lambda outputs, y: 10 * outputs.sum(), lr=3e38)
    assert result == NonFiniteOrigin(1, NonFiniteLocation(Phase.UPDATE, "1.weight"), (10, 11, 12, 13))


def test_finite_values_are_no_error_and_no_hook_stays() -> None:
    model = network()
    assert origin(model, Wheel()) is None
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_in_parts_is_named_whole(parts: int) -> None:
    model = network()
    stepping = TrainStep(grad_accum_steps=parts, compiled_model=lambda x: model(x) * 0)
    taken = steps(model, Wheel(broken=True), functional.cross_entropy, stepping)
    result = find_non_finite(taken, lambda step: 0.1, start=0, stop=8)
    assert result == NonFiniteOrigin(3, NonFiniteLocation(Phase.INPUT), (30, 31, 32, 33), (31,))


class BrokenOnceTrained(nn.Module):
    """A body and a head; infinite once the body's weights have moved."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 2, 3), nn.Linear(72, 10)
        self.first = self.body.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(x).flatten(1))
        return outputs if torch.equal(self.body.weight, self.first) else outputs + float("inf")


def test_replay_after_nan_unfreezes_at_the_right_step(tmp_path: Path) -> None:
    settings = {
        "unfreeze": "head: 0 epochs, all: 1 epoch",
        "duration": "3 epochs",
        "batch_size": 64,
        "schedule.warmup": "0 steps",
    }
    torch.manual_seed(0)
    with pytest.raises(NonFiniteError, match=r"it began at step 23 in the output of the network \(BrokenOnceTrained\)"):
        train(BrokenOnceTrained(), output=tmp_path / "run", overrides=settings, on_log=lambda line: None)
