"""Graphs, folded batch norms and int8 of one small network of each family of the zoo."""

from pathlib import Path

import pytest
import torch
from torch import nn

from reslab.deploy.backends.registry import open_backend
from reslab.deploy.export.bn_folding import count_batch_norms, fold_batch_norms
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model, load_network
from reslab.nn.graph_file import load_program, save_program
from reslab.nn.network import ResidualNetwork
from reslab.nn.operations.convs import WEIGHTED_CONVS

FAMILIES = (
    "convnext_atto",
    "regnety_002",
    "regnetz_005",
    "nf_resnet26",
    "res2net50_26w_4s",
    "skresnet18",
    "resnest14d",
    "resnetv2_50x1_bit",
    "resnetblur18",
    "resnetaa34d",
    "seresnet18",
    "ecaresnet26t",
    "convnextv2_atto",
    "resnetv2_18d",
    "seresnext26d_32x4d",
    "resnetrs50",
)
STANDARDIZED = {"shortcut": "project", "stem": "conv3(8) norm act", "depths": (1, 1, 1), "widths": (8, 12, 16)}


def small_network(name: str) -> ResidualNetwork:
    """Return the network with norms whose statistics and weights are not those of the start."""
    torch.manual_seed(0)
    network = create_model(name, depths=(1, 1, 1, 1), num_classes=4)
    assert isinstance(network, ResidualNetwork)
    return perturb(network)


def perturb(network: ResidualNetwork) -> ResidualNetwork:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor += 0.2 * torch.rand(tensor.shape, generator=generator)
    return network.eval()


def set_bn_statistics(network: ResidualNetwork, x: torch.Tensor) -> None:
    """Set the running statistics to those of x: without them, fresh weights give all images nearly one output."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(x)
    network.eval()


def images(num: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(2))


def assert_same_outputs(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_folding_keeps_the_outputs_of_every_family(name: str) -> None:
    network = small_network(name)
    with torch.no_grad():
        assert_same_outputs(fold_batch_norms(network)(images()), network(images()))


@pytest.mark.parametrize("padding", ["zeros", "same"])
@pytest.mark.parametrize("conv", ["standardized", "scaled-standardized", "dirac"])
def test_folding_stores_computed_kernels(conv: str, padding: str) -> None:
    torch.manual_seed(0)
    network = create_model("resnet20_cifar", conv=conv, padding=padding, num_classes=4, **STANDARDIZED)
    assert isinstance(network, ResidualNetwork)
    perturb(network)
    folded = fold_batch_norms(network)
    computed = {WEIGHTED_CONVS[kind, 2] for kind in ("Standardized", "ScaledStandardized", "Dirac")}
    assert sum(type(module) in computed for module in network.modules()) > 3
    assert not any(type(module) in computed for module in folded.modules())
    assert count_batch_norms(folded) < count_batch_norms(network)
    x = images(side=17)
    with torch.no_grad():
        assert_same_outputs(folded(x), network(x))


def test_a_kernel_that_blocks_share_is_stored_once() -> None:
    conv = WEIGHTED_CONVS["Standardized", 2](3, 3, 3, padding=1)
    folded = fold_batch_norms(nn.Sequential(nn.Sequential(conv), nn.ReLU(), nn.Sequential(conv)))
    assert folded[0][0] is folded[2][0]
    assert type(folded[0][0]) is nn.Conv2d


def test_a_module_that_is_not_of_the_zoo_is_not_folded() -> None:
    """The order of computation inside another module is not that of its names."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    assert count_batch_norms(fold_batch_norms(module)) == 1


@pytest.mark.parametrize("name", ["convnext_atto"])
def test_a_program_of_a_network_with_transitions_computes_the_same(name: str, tmp_path: Path) -> None:
    network = small_network(name)
    x = images(side=network.arch.image_size[0])
    path = tmp_path / "model.pt2"
    save_program(fold_batch_norms(network), network.arch.input_size, path)
    with torch.no_grad():
        assert_same_outputs(load_program(path)(x), network(x))


@pytest.mark.soak
@pytest.mark.parametrize("name", FAMILIES)
def test_a_program_and_a_file_of_weights_of_every_family(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = perturb(create_model(name, depths=(1, 1, 1, 1), num_classes=4, image_size=(64, 64)))
    x = images()
    save_program(network, network.arch.input_size, tmp_path / "model.pt2")
    save_weights(tmp_path / "model.safetensors", network)
    with torch.no_grad():
        expected = network(x)
        assert_same_outputs(load_program(tmp_path / "model.pt2")(x), expected)
        assert torch.equal(load_network(tmp_path / "model.safetensors")(x), expected)


@pytest.mark.soak
@pytest.mark.parametrize("name", FAMILIES)
def test_every_graph_and_int8_of_every_family(name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = create_model(name, depths=(1, 1, 1, 1), num_classes=4, image_size=(64, 64))
    assert isinstance(network, ResidualNetwork)
    x = images(16)
    perturb(network)
    set_bn_statistics(network, x)
    with torch.no_grad():
        expected = network(x)
    for backend in ("onnxruntime", "openvino"):
        assert_same_outputs(open_backend(network, backend, device="cpu")(x), expected)
    quantized = open_backend(network, "onnxruntime", "int8", "cpu", calibration_images=x)(x)
    error = float((quantized - expected).norm() / (expected - expected.mean(0)).norm())
    assert 0 < error < 0.5
