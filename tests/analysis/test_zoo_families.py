"""Every analysis, surgery and the explorer's measurements on a small network of each family of the zoo."""

from typing import Any

import pytest
import torch

from reslab.analysis.lesion import build_block_links
from reslab.analysis.open_targets import target_from_module
from reslab.analysis.registry import ANALYSES, run_analysis
from reslab.analysis.signal import TelescopeVerdict
from reslab.analysis.surgery import block_slots, deletion_obstacle, disabled_blocks, swapped_blocks
from reslab.analysis.target import AnalysisTarget
from reslab.deploy.server.routes.models import _describe_arch
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork

OPTIONS: dict[str, dict[str, Any]] = {
    "landscape": {
        "dimensions": 1,
        "points_per_axis": 3,
        "curvature_points": 1,
        "lanczos_iterations": 2,
        "num_hessian_images": 2,
        "num_eigenvalues": 1,
    },
    "nearest": {"num_queries": 2, "num_neighbors": 1},
    "attribution": {"patch_size": 16, "num_steps": 4, "num_images": 1},
    "lesion": {"path_draws": 2, "draws": 1},
}
QUICK = ("convnext_atto",)
OTHERS = (
    "regnetz_005",
    "regnety_002",
    "nf_resnet26",
    "nf_regnet_b0",
    "res2net50_26w_4s",
    "skresnet18",
    "resnest14d",
    "resnetv2_50x1_bit",
    "resnetblur18",
    "resnetaa34d",
    "seresnet18",
    "ecaresnet26t",
    "convnextv2_atto",
)


def small_target(name: str) -> AnalysisTarget:
    torch.manual_seed(0)
    network = create_model(name, depths=(2, 1, 1, 1), num_classes=4).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():  # a zero weight at the end of a branch would hide what is before it
            if parameter.ndim < 2:
                parameter += 0.1 * torch.rand(parameter.shape, generator=generator)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    return target_from_module(network, images, torch.arange(4), name)


def check_analyses(name: str) -> None:
    target = small_target(name)
    assert isinstance(target.model, ResidualNetwork)
    before = target.model(target.images)
    for analysis in ANALYSES:
        targets = [target, target] if analysis == "compare" else [target]
        assert len(run_analysis(analysis, targets, OPTIONS.get(analysis, {}))) == 1
    assert torch.equal(target.model(target.images), before)  # every analysis restores the network
    check_surgery(target)
    check_telescope(target)


def check_surgery(target: AnalysisTarget) -> None:
    network = target.model
    before = network(target.images)
    slots = block_slots(network)
    deletable = [slot.name for slot in slots if deletion_obstacle(slot.block) is None]
    assert "layer1.1" in deletable  # it keeps the shape
    with disabled_blocks(network, ["layer1.1"]):
        assert not torch.equal(network(target.images), before)
    with disabled_blocks(network, deletable):
        assert network(target.images).isfinite().all()
    if slots[0].block.spec == slots[1].block.spec:
        with swapped_blocks(network, "layer1.0", "layer1.1"):
            assert network(target.images).shape == before.shape
    assert torch.equal(network(target.images), before)


def check_telescope(target: AnalysisTarget) -> None:
    """x_L = x_l + sum F(x_i) holds to rounding where every block is x + F(x), also behind a transition."""
    (result,) = run_analysis("telescope", [target], {})
    if result.max_exact_error is not None:
        assert result.max_exact_error < 1e-5
        assert result.verdict in (TelescopeVerdict.HOLDS, TelescopeVerdict.PARTLY_HOLDS)


@pytest.mark.parametrize("name", QUICK)
def test_every_analysis_runs_on_a_network_with_transitions_and_on_one_without_shortcuts(name: str) -> None:
    check_analyses(name)


@pytest.mark.soak
@pytest.mark.parametrize("name", OTHERS)
def test_every_analysis_runs_on_the_other_families(name: str) -> None:
    check_analyses(name)


@pytest.mark.parametrize("name", [*QUICK, "nf_resnet26", "res2net50_26w_4s", "skresnet18", "resnest14d", "seresnet18"])
def test_the_explorer_describes_every_family(name: str) -> None:
    arch = create_model(name, depths=(2, 1, 1, 1), num_classes=4).arch
    info = _describe_arch(arch)
    assert [len(stage.blocks) for stage in info.stages] == [2, 1, 1, 1]
    assert info.stages[0].blocks[1].layout


def test_links_of_a_network_with_transitions_give_its_whole_gradient() -> None:
    """Through both paths of every block, the links give the gradient that backpropagation gives."""
    target = small_target("convnext_atto")
    network = target.model
    assert isinstance(network, ResidualNetwork)
    links, gradient = build_block_links(network, target.images, target.labels)
    for link in reversed(links):
        gradient = link.backward(gradient, False) + link.backward(gradient, True)
    x = network.forward_stem(target.images).detach().requires_grad_()
    out = x
    for name, stage in network.stages():
        out = stage(network.forward_transition(name, out))
    torch.nn.functional.cross_entropy(network.forward_tail(out), target.labels).backward()
    torch.testing.assert_close(gradient, x.grad, rtol=1e-4, atol=1e-7)
