"""Muon against torch's, on matrices and on convolutions flattened to matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslab.training.optim.optimizers import Muon, orthogonalize

TORCH_SCALE = {"rms": "match_rms_adamw", "original": "original"}


def weight(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def gradient(shape: tuple[int, ...], step: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 + step), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (8, 3, 3, 3), (2, 5, 1, 1)])
@pytest.mark.parametrize("scale", ["rms", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_its_steps_are_torchs_on_the_flattened_weight(
    shape: tuple[int, ...], scale: str, nesterov: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)  # torch then computes in float64 as ours does
    ours, theirs = weight(shape), nn.Parameter(weight(shape).detach().flatten(1))
    settings: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    optimizer = Muon([{"params": [ours], "matrix": True}], scale=scale, **settings)
    other = torch.optim.Muon([theirs], adjust_lr_fn=TORCH_SCALE[scale], **settings)
    for step in range(20):
        ours.grad, theirs.grad = gradient(shape, step), gradient(shape, step).flatten(1)
        optimizer.step()
        other.step()
        torch.testing.assert_close(ours.flatten(1), theirs, rtol=1e-10, atol=1e-12)


def test_weights_of_many_sizes_take_the_steps_that_each_takes_alone() -> None:
    shapes: list[tuple[int, ...]] = [(6, 4), (4, 6), (8, 3, 3, 3), (4, 9), (6, 2, 2), (6, 9), (8, 3, 3, 3), (5, 1, 1)]
    together, alone = [weight(shape) for shape in shapes], [weight(shape) for shape in shapes]
    optimizers = [Muon([{"params": together, "matrix": True}], lr=0.1)]
    optimizers += [Muon([{"params": [parameter], "matrix": True}], lr=0.1) for parameter in alone]
    for step in range(3):
        for parameter, shape in zip(together + alone, shapes * 2, strict=True):
            parameter.grad = gradient(shape, step) if (step, shape) != (1, (4, 9)) else None
        for optimizer in optimizers:
            optimizer.step()
    for result, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)


def test_all_else_is_stepped_by_adamw_at_its_share_of_the_rate() -> None:
    shapes: list[tuple[int, ...]] = [(7,), (3, 4)]
    ours, theirs = [weight(shape) for shape in shapes], [weight(shape) for shape in shapes]
    optimizer = Muon([{"params": ours, "weight_decay": 0.3}], lr=0.1, adamw_lr_factor=0.5, betas=(0.8, 0.95), eps=1e-6)
    other = torch.optim.AdamW(theirs, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
    for step in range(20):
        for params in (ours, theirs):
            for parameter in params:
                parameter.grad = gradient(tuple(parameter.shape), step)
        optimizer.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_channels_last_weights_take_the_same_steps() -> None:
    shape = (8, 4, 3, 3)
    plain, last = weight(shape), nn.Parameter(weight(shape).detach().to(memory_format=torch.channels_last))
    for parameter in (plain, last):
        optimizer = Muon([{"params": [parameter], "matrix": True}], lr=0.1)
        for step in range(3):
            parameter.grad = gradient(shape, step)
            optimizer.step()
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_the_update_has_singular_values_near_one() -> None:
    matrix = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix).float())
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(orthogonalize(matrix.T), orthogonalize(matrix).T)


def reference_iteration(matrix: Tensor, num_iterations: int) -> Tensor:
    """Return X after the iteration of Jordan et al. 2024 in float64, as it is written there."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize(("num_iterations", "bound"), [(1, 1e-6), (5, 1e-3), (12, 0.2)])
@pytest.mark.parametrize("rank", [4, 40])
def test_float32_keeps_to_the_iteration(num_iterations: int, bound: float, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, rank, generator=generator) @ torch.randn(rank, 90, generator=generator)
    expected = reference_iteration(matrix, num_iterations)
    # Where the matrix has no rank it has float32's rounding, and the twelve iterations multiply that by 3.44^12.
    for result in (orthogonalize(matrix, num_iterations), orthogonalize(matrix.T, num_iterations).T):
        assert result.dtype == torch.float32
        assert (result - expected).norm() < bound * expected.norm()


def test_no_gradient_leaves_no_update() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_it_is_resumed_from_its_state() -> None:
    result = []
    for stops in ((), (2,)):
        matrix, vector = weight((4, 6)), weight((5,))
        groups: list[dict[str, Any]] = [{"params": [matrix], "matrix": True}, {"params": [vector]}]
        optimizer = Muon(groups, lr=0.1)
        for step in range(5):
            if step in stops:
                state = optimizer.state_dict()
                optimizer = Muon([{"params": [matrix], "matrix": True}, {"params": [vector]}], lr=0.1)
                optimizer.load_state_dict(state)
            matrix.grad, vector.grad = gradient((4, 6), step), gradient((5,), step)
            optimizer.step()
        result.append((matrix, vector))
    assert torch.equal(result[0][0], result[1][0])
    assert torch.equal(result[0][1], result[1][1])


@pytest.mark.parametrize(
    ("wrong", "message"), [({"lr": -1.0}, "lr"), ({"momentum": 1.0}, "momentum"), ({"scale": "rmss"}, "nearest: 'rms'")]
)
def test_invalid_values_raise(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Muon([weight((2, 2))], **wrong)
    with pytest.raises(ValueError, match="two or more dimensions"):
        Muon([{"params": [weight((2,))], "matrix": True}])
