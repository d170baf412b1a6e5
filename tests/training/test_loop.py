"""The loop against the same steps written out, and from any step on."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.training.gradient import Stepping
from reslab.training.loop import fit, noise_seed
from reslab.training.meters import Diverged, Tally


class Wheel:
    """Batches that are a function of the step."""

    num_steps_per_epoch = 4

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        indices = torch.randint(0, 100, (8,), generator=generator)
        return torch.randn(8, 1, 4, 4, generator=generator), indices % 3, indices

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            yield self.batch(start_step)
            start_step += 1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))


def rate(step: int) -> float:
    return 0.1 / (1 + step)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int, seed: int = 5) -> Tally:
    tally = Tally(first=start)
    loss = functional.cross_entropy
    fit(model, Wheel(), loss, optimizer, rate, lambda step: False, lambda: tally, start=start, stop=stop, seed=seed)
    return tally


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)


def test_the_loop_is_the_loop_that_tutorials_write() -> None:
    ours, plain = network(), network()
    tally = run(ours, sgd(ours), 0, 6)
    optimizer, losses = sgd(plain), []
    for step in range(6):
        torch.manual_seed(noise_seed(5, step))
        optimizer.param_groups[0]["lr"] = rate(step)
        x, y, _ = Wheel().batch(step)
        optimizer.zero_grad()
        value = functional.cross_entropy(plain(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert [loss.item() for loss in tally.losses] == losses
    for found, expected in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(found, expected)


def test_a_loop_from_the_middle_is_the_loop_that_came_there() -> None:
    whole, halves = network(), network()
    run(whole, sgd(whole), 0, 7)
    optimizer = sgd(halves)
    run(halves, optimizer, 0, 3)
    torch.manual_seed(999)
    run(halves, optimizer, 3, 7)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values(), strict=True)
    )


def test_noise_depends_on_seed_step_and_rank() -> None:
    seeds = {noise_seed(seed, step, rank) for seed in range(10) for step in range(-1, 20) for rank in range(3)}
    assert len(seeds) == 10 * 21 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_between_is_told_the_steps_done_and_ends_the_loop() -> None:
    model, seen = network(), []
    optimizer = sgd(model)

    def between(step: int) -> bool:
        seen.append(step)
        return step == 4

    fit(model, Wheel(), functional.cross_entropy, optimizer, rate, between, lambda: Tally(), start=2, stop=9, seed=0)
    assert seen == [3, 4]


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    model, dtypes = network(), []
    model.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    fit(
        model,
        Wheel(),
        functional.cross_entropy,
        sgd(model),
        rate,
        lambda step: False,
        lambda: Tally(),
        start=0,
        stop=2,
        seed=0,
        stepping=Stepping("bf16", channels_last=True),
    )
    assert dtypes == [torch.bfloat16] * 2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_tally_counts_and_names_the_step_that_is_not_finite() -> None:
    tally = Tally(first=10)
    outputs, targets = torch.eye(3), torch.tensor([0, 1, 1])
    tally.add(torch.tensor(1.0), outputs, targets)
    tally.add(torch.tensor(2.0), outputs, targets)
    assert tally.means() == (1.5, 4 / 6)
    tally.add(torch.tensor(float("inf")), outputs, targets)
    tally.add(torch.tensor(float("nan")), outputs, targets)
    with pytest.raises(Diverged, match="inf at step 12"):
        tally.means()


def test_a_tally_comes_back_from_plain_data() -> None:
    tally = Tally(first=10, seconds=1.5)
    tally.add(torch.tensor(1.25), torch.eye(3), torch.tensor([0, 1, 1]))
    again = Tally.from_dict(tally.to_dict(), torch.device("cpu"))
    assert again.means() == tally.means()
    assert (again.first, again.num_samples, again.seconds) == (10, 3, 1.5)


def test_outputs_that_are_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, classes\)"):
        Tally().add(torch.tensor(1.0), torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))
