"""The range test of learning rates: exponential, without a trace, and right about curves whose answer is known."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from reslab.training.lr_finder import centered_means, clip_losses, find_lr, find_steepest
from reslab.training.options import TrainOptions

CPU = torch.device("cpu")


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=draw)
    return images, (images.float().mean((1, 2, 3)) > 127.5).long()


def _asked(model: nn.Module | None = None) -> TrainOptions:
    return TrainOptions(
        model or nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), _data(), "digits", recipe_overrides={"batch_size": 16}
    )


def test_rates_rise_exponentially_and_each_has_a_step() -> None:
    found = find_lr(_asked(), CPU, min_lr=1e-6, max_lr=1e-2, num_steps=11)
    assert found.lrs == pytest.approx([1e-6 * 10 ** (0.4 * k) for k in range(11)])
    assert len(found.losses) == len(found.smoothed_losses) == 11
    assert not found.diverged


def test_the_losses_are_those_of_plain_steps_at_these_rates() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    tried = copy.deepcopy(model)
    found = find_lr(_asked(tried), CPU, min_lr=1e-4, max_lr=1e-1, num_steps=12)
    again = find_lr(_asked(model), CPU, min_lr=1e-4, max_lr=1e-1, num_steps=12)
    assert found.losses == again.losses
    assert found.losses[0] == pytest.approx(math.log(2), abs=1.0)


def test_nothing_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    find_lr(_asked(model), CPU, num_steps=10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_leaves_ends_the_test() -> None:
    found = find_lr(_asked(), CPU, min_lr=1e-3, max_lr=1e30, num_steps=60)
    assert found.diverged
    assert len(found.lrs) == len(found.losses) < 60
    assert all(map(math.isfinite, found.losses))


def test_the_steepest_place_of_a_known_curve() -> None:
    rates = [10 ** (k / 10) for k in range(41)]
    losses = [2 - math.tanh(k / 10 - 2) if k <= 30 else 3.0 for k in range(41)]  # steepest at k = 20
    assert find_steepest(rates, losses) == 20
    smooth = centered_means(losses)
    assert abs((find_steepest(rates, smooth) or 0) - 20) <= 1


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    rates = [10.0**k for k in range(5)]
    assert find_steepest(rates, [1.0, 1.1, 1.2, 1.3, 1.4]) is None
    assert find_steepest(rates[:2], [2.0, 1.0]) is None


def test_means_move_no_slope_and_spikes_are_cut() -> None:
    line = [5.0 - 0.1 * k for k in range(30)]
    assert centered_means(line) == pytest.approx(line)
    assert clip_losses([2.0, 1.0, 400.0]) == [2.0, 1.0, 3.0]


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        ({"min_lr": 1.0, "max_lr": 0.1}, "rates that rise"),
        ({"min_lr": 0.0}, "rates that rise"),
        ({"num_steps": 3}, "at least 10 steps"),
    ],
)
def test_rates_that_mean_nothing_are_refused(rates: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        find_lr(_asked(), CPU, **rates)  # type: ignore[arg-type]
