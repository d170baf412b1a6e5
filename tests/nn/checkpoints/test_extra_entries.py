"""Entries of losses, metrics and detectors are left out with a note; others are an error unless they are allowed."""

import pytest
import torch
from agreement import randomise

from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.factory import create_model

AXES = {"depths": (1, 1, 1), "widths": (4, 8, 16), "stem": "conv3(4) norm act", "merge": "add"}


def network_and_state(prefix=""):
    network = create_model("resnet20_cifar", **AXES)
    randomise(network)
    return network, {prefix + key: tensor for key, tensor in network.state_dict().items()}


NOTED = {
    "class weights of a Lightning module": ("model.", "criterion.weight", "of a loss or metric"),
    "a torchmetrics metric": ("model.", "train_acc.confmat", "of a loss or metric"),
    "a metric with a prefix of its own": ("model.", "val_metrics.MulticlassAccuracy.tp", "of a loss or metric"),
    "a loss in the module": ("", "loss_fn.pos_weight", "of a loss or metric"),
    "the rest of a detector": ("backbone.bottom_up.", "proposal_generator.rpn_head.conv.weight", "of a detector"),
    "a pyramid": ("backbone.bottom_up.", "backbone.fpn_lateral2.weight", "of a detector"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_no_part_of_a_network_is_left_out_with_a_note(case):
    prefix, key, kind = NOTED[case]
    network, state = network_and_state(prefix)
    ours = create_model("resnet20_cifar", pretrained=state | {key: torch.ones(3)}, **AXES)
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert ours.load_report.messages == (f"left out 1 entries {kind}: {key.removeprefix('backbone.')}",)
    assert ours.load_report.is_complete


def test_an_unclear_entry_is_an_error_until_it_is_allowed():
    network, state = network_and_state()
    state |= {"projector.0.weight": torch.ones(2, 2)}
    with pytest.raises(
        CheckpointError, match=r"unexpected in the file \(1\): projector.0.weight(.|\n)*allow_extra=True"
    ):
        create_model("resnet20_cifar", pretrained=state, **AXES)
    ours = create_model("resnet20_cifar", pretrained=state, allow_extra=True, **AXES)
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert ours.load_report.messages == ("left out 1 entries that the network lacks, as allowed: projector.0.weight",)


def test_a_missing_entry_is_an_error_also_with_extra_ones_allowed():
    _, state = network_and_state()
    del state["layer2.0.bn1.running_mean"]
    with pytest.raises(CheckpointError, match=r"missing in the file \(1\): layer2.0.bn1.running_mean"):
        create_model("resnet20_cifar", pretrained=state | {"extra.weight": torch.ones(1)}, allow_extra=True, **AXES)
