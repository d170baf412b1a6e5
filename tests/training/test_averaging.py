"""Averages of weights against torch's, timm's and numpy's."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.training.weight_averaging import MeanOfWeights, MovingAverage, average_runs, wearing, weights_of

SMALL = {"depths": (1, 1, 1), "widths": (4, 8, 16), "stem": "conv3(4) norm act", "in_channels": 1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def shake(model: nn.Module, step: int) -> None:
    """Other weights and statistics, as a step of training would leave them."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor += torch.rand(tensor.shape, generator=generator)
            else:
                tensor += 1


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_moving_average_is_torchs_and_timms() -> None:
    timm = pytest.importorskip("timm.utils")
    model = network()
    ours = MovingAverage(model, 0.9)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    torchs.update_parameters(model)  # its first update copies
    timms = timm.ModelEmaV3(model, decay=0.9, exclude_buffers=True)
    for step in range(1, 8):
        shake(model, step)
        ours.update(model, step)
        torchs.update_parameters(model)
        timms.update(model)
    assert_same(ours.weights, torchs.module.state_dict())
    assert_same(ours.weights, timms.module.state_dict())


def test_the_moving_average_is_its_formula_on_every_third_step_with_a_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = MovingAverage(model, 0.5, every=3, warmup=True)
    expected = model.weight.item()
    for step in range(1, 31):
        shake(model, step)
        average.update(model, step)
        if step % 3 == 0:
            n = step // 3
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * model.weight.item()
        assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_means_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay between 0 and 1"):
        MovingAverage(network(), decay)


def test_a_network_wears_other_weights_and_gets_its_own_back() -> None:
    model, other = network(), network()
    shake(other, 1)
    own = weights_of(model)
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    with wearing(model, other.state_dict()):
        assert_same(weights_of(model), weights_of(other))
    assert_same(weights_of(model), own)
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == pointers


def test_the_mean_is_numpys_and_goes_on_from_its_state() -> None:
    model, mean, seen = network(), MeanOfWeights(), []
    for step in range(5):
        shake(model, step)
        seen.append(weights_of(model))
        mean.add(model.state_dict())
        again = MeanOfWeights()
        again.load(copy.deepcopy(mean.state()))
        mean = again
    found = mean.mean()
    for name, tensor in found.items():
        assert tensor.dtype == seen[0][name].dtype
        if tensor.is_floating_point():
            expected = np.mean([weights[name].double().numpy() for weights in seen], axis=0)
            np.testing.assert_allclose(tensor.numpy(), expected.astype(np.float32), rtol=1e-7)
        else:
            assert torch.equal(tensor, seen[-1][name])


def test_a_mean_of_nothing_or_of_other_weights_is_refused() -> None:
    mean = MeanOfWeights()
    with pytest.raises(ValueError, match="at least one set"):
        mean.mean()
    mean.add(network().state_dict())
    with pytest.raises(ValueError, match="same names and shapes"):
        mean.add(nn.Linear(2, 2).state_dict())


def test_runs_are_averaged_where_they_are_of_one_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [create_model("resnet20_cifar", **SMALL) for _ in range(3)]
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for model, path in zip(models, paths, strict=True):
        save_weights(path, model)
    found = average_runs(paths)
    for name, tensor in found.state_dict().items():
        expected = torch.stack([model.state_dict()[name].double() for model in models]).mean(0)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    save_weights(tmp_path / "other.safetensors", create_model("resnet20_cifar", **{**SMALL, "depths": (1, 1, 2)}))
    with pytest.raises(ValueError, match="one architecture"):
        average_runs([paths[0], tmp_path / "other.safetensors"])
    with pytest.raises(ValueError, match="at least one run"):
        average_runs([])
