"""BatchNorm's true statistics against direct computation over all samples at once."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from reslab.nn.factory import create_model
from reslab.training.batch_norm import batch_norms, keeping_statistics, precise_statistics


def batches(sizes: tuple[int, ...] = (8, 8, 8), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(size, 1, 8, 8, generator=generator, dtype=dtype) for size in sizes]


def network() -> nn.Module:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", in_channels=1, mix="drop-path(0.5) add", match="project", depths=(1, 1, 1))
    return model.double()


def test_the_first_norm_gets_the_mean_and_variance_of_all_samples() -> None:
    model, found = network(), batches((8, 8, 5))
    assert precise_statistics(model, found) == 21
    conv, norm = model.get_submodule("conv1"), model.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        x = conv(torch.cat(found)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, x.mean(1), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(norm.running_var, x.var(1), rtol=1e-11, atol=1e-13)


def test_every_norm_gets_what_comes_to_it_where_each_batch_is_normalised_by_itself() -> None:
    model, found = network(), batches()
    precise_statistics(model, found)
    model.train()
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.eval()
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in batch_norms(model)}
    for norm, inputs in seen.items():
        norm.register_forward_pre_hook(lambda module, args, inputs=inputs: inputs.append(args[0].detach()))
    with torch.no_grad(), keeping_statistics(batch_norms(model)):
        for x in found:
            model(x)
    assert len(seen) == 7 + 2
    for norm, inputs in seen.items():
        x = torch.cat(inputs).transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, x.mean(1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(norm.running_var, x.var(1), rtol=1e-10, atol=1e-12)


def test_one_batch_gives_what_torchs_update_gives() -> None:
    ours, theirs = (create_model("resnet20_cifar", in_channels=1).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    precise_statistics(ours, batches((16,)))
    update_bn(batches((16,)), theirs)
    for first, second in zip(batch_norms(ours), batch_norms(theirs), strict=True):
        torch.testing.assert_close(first.running_mean, second.running_mean, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(first.running_var, second.running_var, rtol=1e-11, atol=1e-13)


def test_modes_counters_weights_and_frozen_norms_stay() -> None:
    model = network().train()
    frozen = model.get_submodule("layer1.0.bn1").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    precise_statistics(model, batches(), frozen=[frozen])
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        moved = "running" in name and not name.startswith("layer1.0.bn1")
        assert torch.equal(tensor, before[name]) != moved, name


def test_a_large_mean_costs_no_digits() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(2))
    x = torch.tensor([[1e4, -1e4], [1e4 + 1, -1e4 + 1], [1e4 + 2, -1e4 + 2], [1e4 + 3, -1e4 - 3]])
    precise_statistics(norm, [x[:2], x[2:]])
    assert isinstance(norm[0].running_var, Tensor)
    torch.testing.assert_close(norm[0].running_var, x.double().var(0).float())


def test_nothing_to_measure_on_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="at least one batch"):
        precise_statistics(model, [])
    assert model.training
