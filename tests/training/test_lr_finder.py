"""The range test of learning rates: exponential, without a trace, and right about curves whose answer is known."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from reslab.training.lr_finder import LRVerdict, find_lr, smooth_losses, suggest_lr
from reslab.training.options import TrainOptions

CPU = torch.device("cpu")


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=draw)
    return images, (images.float().mean((1, 2, 3)) > 127.5).long()


def _options(model: nn.Module | None = None) -> TrainOptions:
    return TrainOptions(
        model or nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), _data(), "digits", recipe_overrides={"batch_size": 16}
    )


def test_rates_rise_exponentially_and_each_has_a_step() -> None:
    search = find_lr(_options(), CPU, min_lr=1e-6, max_lr=1e-2, num_steps=11)
    assert search.lrs == pytest.approx([1e-6 * 10 ** (0.4 * k) for k in range(11)])
    assert len(search.losses) == len(search.smoothed_losses) == 11
    assert not search.diverged


def test_the_losses_are_those_of_plain_steps_at_these_rates() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    tried = copy.deepcopy(model)
    search = find_lr(_options(tried), CPU, min_lr=1e-4, max_lr=1e-1, num_steps=12)
    again = find_lr(_options(model), CPU, min_lr=1e-4, max_lr=1e-1, num_steps=12)
    assert search.losses == again.losses
    assert search.losses[0] == pytest.approx(math.log(2), abs=1.0)


def test_find_lr_restores_model_and_random_state_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    find_lr(_options(model), CPU, num_steps=10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_leaves_ends_the_test() -> None:
    search = find_lr(_options(), CPU, min_lr=1e-3, max_lr=1e30, num_steps=60)
    assert search.diverged
    assert len(search.lrs) == len(search.losses) < 60
    assert all(map(math.isfinite, search.losses))


LRS = [1e-5 * 10 ** (6 * k / 99) for k in range(100)]  # 1e-5 to 10, the default
SEEDS = range(20)


def _noise(seed: int, std: float, count: int = 100) -> list[float]:
    return (std * torch.randn(count, generator=torch.Generator().manual_seed(seed))).tolist()


def _flat_fall_rise(lr: float) -> float:
    """2.3 up to 1e-3, then a straight fall (against log lr) to 0.8 at 1e-1, then a rise by 3 in each decade."""
    if lr <= 1e-3:
        return 2.3
    return 2.3 - 0.75 * math.log10(lr / 1e-3) if lr <= 1e-1 else 0.8 + 3 * math.log10(lr / 1e-1)


def test_flat_then_falling_then_rising_without_noise() -> None:
    suggestion = suggest_lr(LRS, [_flat_fall_rise(lr) for lr in LRS])
    assert suggestion.verdict is LRVerdict.CLEAR
    assert suggestion.lowest_loss_lr == pytest.approx(1e-1, rel=0.5)
    done, rise = 1e-3 * 10 ** (0.9 * 2), 1e-1 * 10 ** (0.3 * 1.5 / 3)  # 0.9 of the fall of 1.5; 0.3 of it above 0.8
    assert suggestion.fall_lr == pytest.approx(done, rel=0.45)  # half a decade is averaged
    assert suggestion.rise_lr == pytest.approx(rise, rel=0.35)
    assert suggestion.suggested_lr == LRS[LRS.index(suggestion.rise_lr or 0) - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_moves_the_suggestion_by_less_than_a_factor_of_two(seed: int) -> None:
    losses = [_flat_fall_rise(lr) + noise for lr, noise in zip(LRS, _noise(seed, 0.1), strict=True)]
    suggestion = suggest_lr(LRS, losses)
    assert suggestion.verdict is LRVerdict.CLEAR
    assert suggestion.suggested_lr is not None
    assert 0.063 < suggestion.suggested_lr < 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_at_the_left_edge_is_not_the_fall(seed: int) -> None:
    noise = [*_noise(seed, 0.4, 12), *_noise(seed + 100, 0.05, 88)]
    suggestion = suggest_lr(LRS, [_flat_fall_rise(lr) + n for lr, n in zip(LRS, noise, strict=True)])
    assert suggestion.verdict is LRVerdict.CLEAR
    assert suggestion.suggested_lr is not None
    assert 0.063 < suggestion.suggested_lr < 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_only_noise_suggests_nothing(seed: int) -> None:
    suggestion = suggest_lr(LRS, [0.7 + noise for noise in _noise(seed, 0.1)])
    assert (suggestion.verdict, suggestion.suggested_lr, suggestion.rise_lr) == (LRVerdict.NO_FALL, None, None)


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_that_only_rises_suggests_nothing_and_names_the_start(seed: int) -> None:
    curve = [0.7 + 3 * max(0.0, math.log10(lr / 1e-2)) for lr in LRS]
    suggestion = suggest_lr(LRS, [loss + noise for loss, noise in zip(curve, _noise(seed, 0.1), strict=True)])
    assert (suggestion.verdict, suggestion.suggested_lr) == (LRVerdict.NO_FALL, None)
    assert suggestion.rise_lr is not None
    assert 0.005 < suggestion.rise_lr < 0.02


def test_a_recovery_after_the_rise_is_ignored() -> None:
    def curve(lr: float) -> float:
        return _flat_fall_rise(lr) if lr < 0.5 else 0.5

    suggestion = suggest_lr(LRS, [curve(lr) for lr in LRS])
    assert suggestion.verdict is LRVerdict.CLEAR
    assert suggestion.lowest_loss_lr == pytest.approx(1e-1, rel=0.5)


def test_a_loss_that_falls_up_to_the_last_rate_suggests_nothing() -> None:
    suggestion = suggest_lr(LRS, [2.3 - 0.01 * k for k in range(100)])
    assert (suggestion.verdict, suggestion.suggested_lr, suggestion.lowest_loss_lr) == (
        LRVerdict.STILL_FALLING,
        None,
        LRS[-1],
    )


def test_a_loss_that_falls_and_never_diverges_has_a_suggestion() -> None:
    suggestion = suggest_lr(LRS, [max(0.8, _flat_fall_rise(min(lr, 1e-1))) for lr in LRS])
    assert (suggestion.verdict, suggestion.rise_lr, suggestion.suggested_lr) == (
        LRVerdict.CLEAR,
        None,
        suggestion.fall_lr,
    )
    assert suggestion.suggested_lr == pytest.approx(1e-3 * 10 ** (0.9 * 2), rel=0.35)


@pytest.mark.parametrize("losses", [[], [2.3], [2.3, 2.4, 9.0], [1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 3.6, 4.3, 5.1]])
def test_a_test_that_diverges_at_once_suggests_nothing(losses: list[float]) -> None:
    suggestion = suggest_lr(LRS[: len(losses)], losses)
    assert (suggestion.verdict, suggestion.suggested_lr) == (LRVerdict.STARTS_TOO_HIGH, None)


def test_a_loss_that_is_nan_early_ends_the_test_without_a_suggestion() -> None:
    search = find_lr(_options(), CPU, min_lr=1e30, max_lr=1e36, num_steps=60)
    assert (search.verdict, search.suggested_lr, search.diverged) == (LRVerdict.STARTS_TOO_HIGH, None, True)
    assert all(map(math.isfinite, search.losses))


def test_a_spike_does_not_end_the_fall() -> None:
    losses = [_flat_fall_rise(lr) for lr in LRS]
    losses[50] = 400.0
    assert suggest_lr(LRS, losses) == suggest_lr(LRS, [_flat_fall_rise(lr) for lr in LRS])


def test_smoothing_keeps_a_line_and_removes_a_spike() -> None:
    line = [5.0 - 0.1 * k for k in range(30)]
    smoothed = smooth_losses(line)
    assert smoothed[2:-2] == pytest.approx(line[2:-2])
    assert smoothed[0] == pytest.approx((4.95 + 4.9) / 2)  # of the two medians there are: 4.95, of two values, and 4.9
    assert smooth_losses([1.0, 1.0, 1.0, 400.0, 1.0, 1.0, 1.0]) == [1.0] * 7


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        ({"min_lr": 1.0, "max_lr": 0.1}, "rates that rise"),
        ({"min_lr": 0.0}, "rates that rise"),
        ({"num_steps": 3}, "at least 10 steps"),
    ],
)
def test_invalid_rates_raise(rates: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        find_lr(_options(), CPU, **rates)  # type: ignore[arg-type]
