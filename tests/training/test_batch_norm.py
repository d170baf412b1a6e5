"""BatchNorm's true statistics against direct computation over all samples at once.

BatchNorm over ranks against torch's on the whole batch, and one gradient for all.
"""

from pathlib import Path

import pytest
import torch
from launch import on_ranks
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from reslab.nn.factory import create_model
from reslab.runtime.distributed import SINGLE_PROCESS
from reslab.training.batch_norm import (
    batch_norms,
    frozen_bn_stats,
    sync_batch_norm,
    sync_batch_norm_forward,
    update_bn_stats,
)


def batches(sizes: tuple[int, ...] = (8, 8, 8), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(size, 1, 8, 8, generator=generator, dtype=dtype) for size in sizes]


def network() -> nn.Module:
    torch.manual_seed(0)
    model = create_model(
        "resnet20_cifar", in_channels=1, merge="drop-path(0.5) add", shortcut="project", depths=(1, 1, 1)
    )
    return model.double()


def test_the_first_norm_gets_the_mean_and_variance_of_all_samples() -> None:
    model, result = network(), batches((8, 8, 5))
    assert update_bn_stats(model, result) == 21
    conv, norm = model.get_submodule("conv1"), model.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        x = conv(torch.cat(result)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, x.mean(1), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(norm.running_var, x.var(1), rtol=1e-11, atol=1e-13)


def test_precise_statistics_of_every_norm_use_batch_normalized_inputs() -> None:
    model, result = network(), batches()
    update_bn_stats(model, result)
    model.train()
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.eval()
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in batch_norms(model)}
    for norm, inputs in seen.items():
        norm.register_forward_pre_hook(lambda module, args, inputs=inputs: inputs.append(args[0].detach()))
    with torch.no_grad(), frozen_bn_stats(batch_norms(model)):
        for x in result:
            model(x)
    assert len(seen) == 7 + 2
    for norm, inputs in seen.items():
        x = torch.cat(inputs).transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, x.mean(1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(norm.running_var, x.var(1), rtol=1e-10, atol=1e-12)


def test_one_batch_gives_what_torchs_update_gives() -> None:
    ours, theirs = (create_model("resnet20_cifar", in_channels=1).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    update_bn_stats(ours, batches((16,)))
    update_bn(batches((16,)), theirs)
    for first, second in zip(batch_norms(ours), batch_norms(theirs), strict=True):
        torch.testing.assert_close(first.running_mean, second.running_mean, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(first.running_var, second.running_var, rtol=1e-11, atol=1e-13)


def test_modes_counters_weights_and_frozen_norms_stay() -> None:
    model = network().train()
    frozen = model.get_submodule("layer1.0.bn1").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    update_bn_stats(model, batches(), frozen=[frozen])
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        moved = "running" in name and not name.startswith("layer1.0.bn1")
        assert torch.equal(tensor, before[name]) != moved, name


def test_a_large_mean_costs_no_digits() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(2))
    x = torch.tensor([[1e4, -1e4], [1e4 + 1, -1e4 + 1], [1e4 + 2, -1e4 + 2], [1e4 + 3, -1e4 - 3]])
    update_bn_stats(norm, [x[:2], x[2:]])
    assert isinstance(norm[0].running_var, Tensor)
    torch.testing.assert_close(norm[0].running_var, x.double().var(0).float())


def test_nothing_to_measure_on_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="at least one batch"):
        update_bn_stats(model, [])
    assert model.training


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
from reslab.training.batch_norm import sync_batch_norm
model = network()
model[0].weight.requires_grad_(False)
replica = process_group.wrap_ddp(model)
model[0].weight.requires_grad_(True)  # opened later, and shared all the same
x, y = batch()
parts = [part.clone().requires_grad_() for part in x.split(3)]
x, y, before = parts[process_group.rank], y.split(3)[process_group.rank], set(vars(model[1]))
with sync_batch_norm(model, process_group):
    for _ in range(2):
        replica.zero_grad()
        out = replica(x)
        (out * y).pow(2).sum().div(3).backward()
    model.eval()
    eval_outputs = model(x)
assert set(vars(model[1])) == before
answer = {
    "out": out.detach(), "x": x.grad, "eval_outputs": eval_outputs.detach(), "state": model.state_dict(),
    "gradients": [parameter.grad for parameter in model.parameters()],
}
"""


def test_outputs_gradients_and_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    answers = on_ranks(MODEL + SHARED, tmp_path)
    space: dict[str, object] = {"torch": torch}
    exec(MODEL, space)
    model, (x, y) = space["network"](), space["batch"]()  # type: ignore[operator]
    x.requires_grad_()
    for _ in range(2):
        model.zero_grad()
        out = model(x)
        (out * y).pow(2).sum().div(6).backward()
    eval_outputs = model.eval()(x)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(torch.cat([one["out"] for one in answers]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([one["eval_outputs"] for one in answers]), eval_outputs.detach(), **close)
    # A rank's loss is a mean over half the batch: to its inputs it gives twice the gradient.
    torch.testing.assert_close(torch.cat([one["x"] for one in answers]) / 2, x.grad, **close)
    for one in answers:
        torch.testing.assert_close(one["gradients"], [parameter.grad for parameter in model.parameters()], **close)
        torch.testing.assert_close(dict(one["state"]), dict(model.state_dict()), **close)
    for name, tensor in answers[0]["state"].items():
        assert torch.equal(tensor, answers[1]["state"][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_on_one_rank_it_is_torchs(dtype: torch.dtype, affine: bool) -> None:
    ours, theirs = (nn.BatchNorm2d(4, affine=affine) for _ in range(2))
    x = torch.randn(5, 4, 6, 6).to(dtype)
    result, expected = sync_batch_norm_forward(ours, x, lambda sums: sums), theirs(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_one_rank_alone_keeps_its_norms_as_they_are() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with sync_batch_norm(model, SINGLE_PROCESS):
        assert "forward" not in vars(model[0])


def test_inputs_of_other_dimensions_are_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="4D"):
        sync_batch_norm_forward(nn.BatchNorm2d(3), torch.zeros(2, 3), lambda sums: sums)
