"""Folded batch norms: the outputs stay the same in every order, and the norms are gone."""

import pytest
import torch
from torch import nn

from reslab.deploy.export.bn_folding import count_batch_norms, fold_batch_norms
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.order import ORDERS


def lived(name: str, **axes: object) -> ResidualNetwork:
    """A network in eval mode whose norms have means, variances and weights of their own."""
    torch.manual_seed(0)
    network = create_model(name, **axes)
    assert isinstance(network, ResidualNetwork)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3.0)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_order_computes_what_it_did(order: str) -> None:
    branch = {"convs": (3,)} if order.startswith("book") else {}
    network = lived("resnet20_cifar", depths=(1, 1, 1), order=order, **branch).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = network(x)
    torch.testing.assert_close(fold_batch_norms(network)(x), before, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network(x), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "axes", "left"),
    [
        ("resnet18", {}, 0),
        ("resnet50d", {"depths": (1, 1, 1, 1)}, 0),
        ("resnet20_cifar", {"depths": (2, 1, 1), "shortcut": "project"}, 0),
        ("resnet20_cifar", {"depths": (1, 1, 1), "bias": True}, 0),
        ("resnet20_cifar", {"depths": (3,), "widths": (16,), "strides": (1,), "share_weights": True}, 0),
        ("resnet20_cifar", {"depths": (1, 1, 1), "norm": "frozen"}, 0),
        # The second norm of each pre-activated unit follows the first convolution; the first ones and the last stay.
        ("resnet20_cifar", {"depths": (1, 1, 1), "order": "full-preact"}, 4),
        ("resnet20_cifar", {"depths": (1, 1, 1), "order": "bn-after-add"}, 3),
    ],
)
def test_what_can_be_folded_is(name: str, axes: dict[str, object], left: int) -> None:
    network = lived(name, image_size=(32, 32), **axes)
    folded = fold_batch_norms(network)
    assert count_batch_norms(folded) == left
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-3)


def test_other_norms_are_left() -> None:
    network = lived("resnet20_cifar", depths=(1, 1, 1), norm="group(4)")
    folded = fold_batch_norms(network)
    assert sum(isinstance(module, nn.GroupNorm) for module in folded.modules()) == 7
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=0)


def test_a_network_in_training_is_folded_as_it_is_evaluated() -> None:
    network = lived("resnet20_cifar", depths=(1, 1, 1)).train()
    folded = fold_batch_norms(network)
    assert network.training
    assert not folded.training
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(folded(x), network.eval()(x), rtol=1e-4, atol=1e-4)
