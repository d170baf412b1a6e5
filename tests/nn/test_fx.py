"""Networks under torch.fx: traced modules give their outputs, and torchvision's feature extractor takes them."""

import pytest
import torch
import torchvision
from agreement import images
from torch import fx
from torchvision.models.feature_extraction import create_feature_extractor

from reslab.nn.factory import create_model
from reslab.spec.operations import OPERATIONS, Family
from reslab.spec.order import ATTENTION

NORMS = {"group": "group(8)", "evonorm-s0": "evonorm-s0(8)"}
KINDS = [
    *({"norm": NORMS.get(name, name)} for name in OPERATIONS[Family.NORM] if name not in ("none", "custom")),
    *({"order": f"conv norm act | conv norm {name} + act"} for name in (*ATTENTION, "grn")),
    *({"conv": name} for name in ("standardized", "scaled-standardized", "dirac")),
    *({"merge": merge} for merge in ("drop-path(0.5) add", "stochastic-depth(0.5) add", "gate(-2)", "layerscale(0.1)")),
    {"branches": 2, "merge": "shake add"},
    {"branches": 2},
    {"shortcut": "shift-project"},
    {"padding": "same"},
]
NAMES = ("skresnet18", "resnest14d", "res2net50d", "resnetblur18", "convnextv2_atto", "nf_resnet26")
SMALL = {"depths": (1, 1), "widths": (16, 32), "strides": (1, 2), "stem": "conv3(16) norm act"}


def assert_traceable(network):
    x = images(2, 3, 32, 32, dtype=torch.float32)
    for training in (True, False):
        traced = fx.symbolic_trace(network.train(training))
        outputs = []
        for module in (network, traced):
            torch.manual_seed(0)
            outputs.append(module(x))
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    extractor = create_feature_extractor(network.eval(), {"layer1": "maps"})
    torch.testing.assert_close(extractor(x)["maps"], network.features(x)["layer1"])


@pytest.mark.parametrize("axes", KINDS, ids=str)
def test_every_kind_of_layer_can_be_traced(axes):
    torch.manual_seed(0)
    assert_traceable(create_model("resnet18_cifar", **SMALL, **axes))


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_several_paths_can_be_traced(name):
    torch.manual_seed(0)
    assert_traceable(create_model(name))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_graph_has_the_nodes_of_torchvisions(name):
    with torch.device("meta"):
        networks = create_model(name), torchvision.models.get_model(name, weights=None)
    ours, theirs = (fx.symbolic_trace(network).graph.nodes for network in networks)
    assert len(ours) == len(theirs)
    kinds = [
        [type(network.get_submodule(node.target)) for node in nodes if node.op == "call_module"]
        for network, nodes in zip(networks, (ours, theirs), strict=True)
    ]
    kinds[0].remove(torch.nn.Flatten)  # a function in torchvision's
    assert kinds[0] == kinds[1]


def test_a_traced_network_draws_random_numbers_in_each_call():
    traced = fx.symbolic_trace(create_model("resnet18_cifar", **SMALL, merge="drop-path(0.5) add").train())
    x = images(16, 3, 32, 32, dtype=torch.float32)
    torch.manual_seed(0)
    assert not torch.equal(traced(x), traced(x))
