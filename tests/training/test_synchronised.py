"""BatchNorm over ranks against torch's on the whole batch, and one gradient for all."""

from pathlib import Path

import pytest
import torch
from ranked import on_ranks
from torch import nn

from reslab.runtime.distributed import ALONE
from reslab.training.synchronised import synchronised_batch_norm, synchronised_norms

MODEL = """
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3),
        torch.nn.BatchNorm2d(4, momentum=None), torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.BatchNorm1d(5),
    ).double()
def batch():
    torch.manual_seed(1)
    return torch.randn(6, 3, 8, 8, dtype=torch.float64) * 3 + 1, torch.randn(6, 5, dtype=torch.float64)
"""
SHARED = """
from reslab.training.synchronised import synchronised_norms
model = network()
model[0].weight.requires_grad_(False)
replica = ranks.replica(model)
model[0].weight.requires_grad_(True)  # opened later, and shared all the same
x, y = batch()
parts = [part.clone().requires_grad_() for part in x.split(3)]
x, y, before = parts[ranks.rank], y.split(3)[ranks.rank], set(vars(model[1]))
with synchronised_norms(model, ranks):
    for _ in range(2):
        replica.zero_grad()
        out = replica(x)
        (out * y).pow(2).sum().div(3).backward()
    model.eval()
    judged = model(x)
assert set(vars(model[1])) == before
answer = {
    "out": out.detach(), "x": x.grad, "judged": judged.detach(), "state": model.state_dict(),
    "gradients": [parameter.grad for parameter in model.parameters()],
}
"""


def test_outputs_gradients_and_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    told = on_ranks(MODEL + SHARED, tmp_path)
    space: dict[str, object] = {"torch": torch}
    exec(MODEL, space)
    model, (x, y) = space["network"](), space["batch"]()  # type: ignore[operator]
    x.requires_grad_()
    for _ in range(2):
        model.zero_grad()
        out = model(x)
        (out * y).pow(2).sum().div(6).backward()
    judged = model.eval()(x)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([one["out"] for one in told]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([one["judged"] for one in told]), judged.detach(), **close)
    # A rank's loss is a mean over half the batch: to its inputs it gives twice the gradient.
    torch.testing.assert_close(torch.cat([one["x"] for one in told]) / 2, x.grad, **close)
    for one in told:
        torch.testing.assert_close(one["gradients"], [parameter.grad for parameter in model.parameters()], **close)
        torch.testing.assert_close(dict(one["state"]), dict(model.state_dict()), **close)
    for name, tensor in told[0]["state"].items():
        assert torch.equal(tensor, told[1]["state"][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_on_one_rank_it_is_torchs(dtype: torch.dtype, affine: bool) -> None:
    ours, theirs = (nn.BatchNorm2d(4, affine=affine) for _ in range(2))
    x = torch.randn(5, 4, 6, 6).to(dtype)
    found, expected = synchronised_batch_norm(ours, x, lambda sums: sums), theirs(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_one_rank_alone_keeps_its_norms_as_they_are() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with synchronised_norms(model, ALONE):
        assert "forward" not in vars(model[0])


def test_inputs_of_other_dimensions_are_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="4D"):
        synchronised_batch_norm(nn.BatchNorm2d(3), torch.zeros(2, 3), lambda sums: sums)
