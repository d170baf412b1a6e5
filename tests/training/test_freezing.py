"""Parts of a network frozen until their time: no weight and no statistic of them moves, and after it they do."""

import pytest
import torch
from torch import nn

from reslab.nn.factory import create_model
from reslab.spec.recipes import find_recipe
from reslab.training.freezing import Freezing

STAGES = ("head: 0 epochs", "last-stage: 1 epoch", "layer2: 2 epochs")


def small() -> nn.Module:
    return create_model("resnet20_cifar", depths="1,1,1")


def trained(model: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}


def test_parts_open_at_their_step() -> None:
    model = small().train()
    freezing = Freezing(model, STAGES, 10, 100)
    with freezing.active(0):
        seen = []
        for step in range(25):
            freezing.on_step_end(step)
            model.train()  # as after an evaluation
            seen.append((trained(model), {norm.training for norm in freezing.frozen_norms(step)}))
        assert [parts for parts, _ in seen] == (
            [{"fc"}] * 10 + [{"fc", "layer3"}] * 10 + [{"fc", "layer3", "layer2"}] * 5
        )
        assert all(modes == {False} for _, modes in seen)
        assert model.layer3[0].bn1.training
        assert not model.bn1.training
    assert trained(model) == {"conv1", "bn1", "layer1", "layer2", "layer3", "fc"}
    assert all(module.training for module in model.modules())


def test_a_frozen_norm_does_not_move() -> None:
    model = small()
    model.train()
    with Freezing(model, ("head: 0 epochs",), 10, 100).active(3):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        model(torch.randn(4, 3, 32, 32)).sum().backward()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {
            "fc.weight",
            "fc.bias",
        }
    model(torch.randn(4, 3, 32, 32))
    assert not torch.equal(model.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


def test_without_stages_all_is_trained() -> None:
    model = small()
    freezing = Freezing(model, (), 10, 100)
    with freezing.active(0):
        assert freezing.frozen_norms(0) == []
        assert all(weight.requires_grad for weight in model.parameters())


def test_what_the_user_froze_stays_frozen() -> None:
    model = small()
    model.conv1.weight.requires_grad_(False)
    with Freezing(model, ("all: 0 epochs",), 10, 100).active(0):
        assert not model.conv1.weight.requires_grad
    assert not model.conv1.weight.requires_grad


def test_the_head_of_a_module_of_one_s_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with Freezing(model, ("head: 0 epochs",), 10, 100).active(0):
        assert trained(model) == {"3"}


def test_an_unknown_part_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'layer3'"):
        Freezing(small(), ("head: 0 epochs", "layer4: 1 epoch"), 10, 100)


@pytest.mark.parametrize(("total_steps", "starts"), [(2, [0, 0, 1]), (12, [0, 2, 5]), (120, [0, 20, 50])])
def test_the_phases_of_finetune_are_shares_of_the_run(total_steps: int, starts: list[int]) -> None:
    freezing = Freezing(small(), find_recipe("finetune").unfreeze, 1, total_steps)
    assert [step for step in range(total_steps) if freezing.is_phase_start(step)] == sorted(set(starts))
    assert freezing.trained_parts(total_steps - 1) == ["head", "last-stage", "all"]
    assert freezing.unreached_parts(total_steps) == {}
    assert freezing.num_trained(total_steps - 1) == sum(weight.numel() for weight in small().parameters())


def test_parts_that_a_run_never_trains_are_listed() -> None:
    freezing = Freezing(small(), ("head: 0%", "layer3: 1 epoch", "all: 4 epochs"), 10, 20)
    assert freezing.unreached_parts(20) == {"all": 40}
    assert freezing.trained_parts(19) == ["head", "layer3"]
