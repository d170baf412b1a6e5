"""Gradients at each block against autograd, and against the predictions for shortcuts."""

import copy
import math

import pytest
import torch
import torchvision
from torch.nn import functional

from reslab.analysis.gradients import (
    DECADES_LIMIT,
    GradientOptions,
    analyze_gradients,
    block_gradient_norms,
    fit_log_slope,
)
from reslab.analysis.layers import decompose_block, shortcut_gradients
from reslab.analysis.open_targets import target_from_module
from reslab.analysis.target import AnalysisTarget
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork


def network(**axes: object) -> ResidualNetwork:
    torch.manual_seed(0)
    result = create_model("resnet20_cifar", image_size=(8, 8), **axes)
    assert isinstance(result, ResidualNetwork)
    return result.double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(10, (16,), generator=generator)


def test_each_norm_is_that_of_torch(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (x, y) = network(), batch
    result = block_gradient_norms(model, x, y)
    assert [name for name, _ in result] == [name for name, _ in model.blocks()]
    # The gradient at a block's input, by running the parts before and after it separately.
    chain = [block for _, block in model.train().blocks()]
    for index in (0, 4, 8):
        inputs = model.forward_stem(x)
        for block in chain[:index]:
            inputs = block(inputs)
        inputs = inputs.detach().requires_grad_()
        output = inputs
        for block in chain[index:]:
            output = block(output)
        functional.cross_entropy(model.forward_tail(output), y).backward()
        assert inputs.grad is not None
        assert result[index][1] == pytest.approx(float(inputs.grad.norm()), rel=1e-10)


def test_the_network_is_not_changed(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (x, y) = network().eval(), batch
    before = copy.deepcopy(model.state_dict())
    block_gradient_norms(model, x, y)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(block._forward_pre_hooks for _, block in model.blocks())


def test_under_no_grad_it_measures_all_the_same(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, (x, y) = network(), batch
    with torch.no_grad():
        assert block_gradient_norms(model, x, y) == block_gradient_norms(model, x, y)


def test_zero_branches_pass_the_gradient_on_unchanged(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Pre-activated blocks whose branch ends in zeros are the identity: all norms within a stage are equal."""
    model, (x, y) = network(order="full-preact", merge="rezero add"), batch
    norms = dict(block_gradient_norms(model, x, y))
    assert norms["layer3.1"] == pytest.approx(norms["layer3.2"], rel=1e-12)


def test_a_shared_block_has_a_norm_for_each_call() -> None:
    torch.manual_seed(0)
    model = create_model("book_resdeep", depths=(3,))
    assert isinstance(model, ResidualNetwork)
    result = block_gradient_norms(model, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))
    assert [name for name, _ in result] == ["layer1.0"] * 3
    assert len({norm for _, norm in result}) == 3


def chain(mix: str, weights: list[float], order: str = "conv +") -> AnalysisTarget:
    """Blocks of one channel and one weight, y = x + w x (or w x in the plain twin), with a gradient known by hand."""
    model = create_model(
        "resnet20_cifar", depths=(len(weights),), widths=(1,), strides=(1,), convs=(1,), order=order, norm="none",
        merge=mix, stem="conv1(1)", in_channels=1, num_classes=2, image_size=(4, 4),
    )  # fmt: skip
    with torch.no_grad():
        for (_, block), weight in zip(model.double().blocks(), weights, strict=True):
            block.conv1.weight.fill_(weight)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 1, 4, 4, generator=generator, dtype=torch.float64)
    return target_from_module(model, images, torch.tensor([0, 1] * 3), "chain")


WEIGHTS = [0.5, -0.3, 2.0, 0.1, -1.5]


def test_a_plain_linear_chain_has_the_product_of_its_factors_as_gradient() -> None:
    result = analyze_gradients(chain("none", WEIGHTS), GradientOptions())
    inputs = [block.input_norm for block in result.blocks]
    for index, weight in enumerate(WEIGHTS[:-1]):
        assert inputs[index] / inputs[index + 1] == pytest.approx(abs(weight), rel=1e-9)
    assert not result.is_residual
    assert [block.plain_product for block in result.blocks] == pytest.approx(inputs, rel=1e-9)
    assert [block.shortcut_norm for block in result.blocks] == [0.0] * 5


@pytest.mark.parametrize("mix", ["add", "scale(0.7,1)", "scale(1,0.5)"])
def test_a_residual_linear_chain_has_the_product_of_factor_plus_weight(mix: str) -> None:
    a, b = {"add": (1, 1), "scale(0.7,1)": (0.7, 1), "scale(1,0.5)": (1, 0.5)}[mix]
    result = analyze_gradients(chain(mix, WEIGHTS), GradientOptions())
    inputs = [block.input_norm for block in result.blocks]
    last = inputs[-1] / abs(a + b * WEIGHTS[-1])
    for index, block in enumerate(result.blocks):
        left = len(WEIGHTS) - index
        assert inputs[index] == pytest.approx(last * abs(math.prod(a + b * w for w in WEIGHTS[index:])), rel=1e-9)
        assert block.shortcut_norm == pytest.approx(last * a**left, rel=1e-9)
        assert block.branch_norm == pytest.approx(
            abs(inputs_sign(a, b, index) * inputs[index] - last * a**left), rel=1e-6
        )
        assert block.shortcut_gain == pytest.approx(a, rel=1e-9)
        assert block.branch_gain == pytest.approx(b * abs(WEIGHTS[index]), rel=1e-9)
        product = last * math.prod(b * abs(w) for w in WEIGHTS[index:])
        assert block.plain_product == pytest.approx(product, rel=1e-9)
        summed = last * math.prod(math.hypot(a, b * w) for w in WEIGHTS[index:])
        assert block.residual_product == pytest.approx(summed, rel=1e-9)


def inputs_sign(a: float, b: float, index: int) -> float:
    return math.copysign(1.0, math.prod(a + b * weight for weight in WEIGHTS[index:]))


def test_in_full_preact_the_direct_way_carries_the_gradient_of_the_stage_s_end(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """He et al. 2016, Eq. 5: dL/dx_l = dL/dx_L (1 + ...), where the 1 is the path through the shortcuts."""
    target = target_from_module(network(order="full-preact"), *batch)
    blocks = {block.name: block for block in analyze_gradients(target, GradientOptions()).blocks}
    for block in blocks.values():
        assert block.shortcut_norm is not None
        assert block.branch_norm is not None
        assert block.cosine is not None
        squared = (
            block.shortcut_norm**2 + block.branch_norm**2 + 2 * block.cosine * block.shortcut_norm * block.branch_norm
        )
        assert block.input_norm**2 == pytest.approx(squared, rel=1e-9)
    # Option A at layer2.0 pads and takes every second position, so the gradient returns to these unchanged.
    assert blocks["layer2.1"].shortcut_norm == pytest.approx(blocks["layer2.2"].shortcut_norm, rel=1e-12)
    assert blocks["layer2.1"].shortcut_norm == pytest.approx(blocks["layer3.0"].input_norm, rel=1e-12)


def test_the_shortcut_alone_is_torch_s_gradient_with_the_branch_cut(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(3)
    block = network(merge="gate(-1)").get_submodule("layer1.1").train()
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    gradient = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    [result] = shortcut_gradients(block, x, gradient)  # type: ignore[arg-type]
    parts = decompose_block(block, x)  # type: ignore[arg-type]
    openness = torch.sigmoid(block.merge.gate(x))  # type: ignore[operator, union-attr]
    assert torch.allclose(parts.shortcut, (1 - openness) * x)
    assert torch.allclose(result, (parts.output > 0) * gradient * (1 - openness), atol=1e-12)


def test_a_third_party_module_has_gradient_norms(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).double()
    target = target_from_module(model, torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 2]))
    result = analyze_gradients(target, GradientOptions("running"))
    assert [block.name for block in result.blocks][:3] == ["layer1.0", "layer1.1", "layer2.0"]
    loss = functional.cross_entropy(model.eval()(target.images), target.labels)
    loss.backward()
    convs = [model.layer2[0].conv1, model.layer2[0].conv2, model.layer2[0].downsample[0]]
    expected = math.sqrt(sum(float(conv.weight.grad.square().sum()) for conv in convs))
    assert result.blocks[2].weight_norm == pytest.approx(expected, rel=1e-9)
    # The two paths are measured too, on the zoo's network with these weights.
    ours = create_model("resnet18", num_classes=10).double()
    ours.load_state_dict(model.state_dict())
    same = analyze_gradients(target_from_module(ours, target.images, target.labels), GradientOptions("running"))
    assert result.is_residual
    assert [block.shortcut_norm for block in result.blocks] == pytest.approx(
        [block.shortcut_norm for block in same.blocks], rel=1e-9
    )


@pytest.mark.parametrize(
    ("norms", "verdict"),
    [
        ([10.0**-index for index in range(4)], "exploding"),
        ([10.0**index for index in range(4)], "vanishing"),
        ([1.0, 2.0, 1.0], "healthy"),
        ([1.0, 0.0, 1.0], "vanishing"),
        ([1.0, math.nan], "exploding"),
        ([1.0], "too few blocks"),
    ],
)
def test_the_verdict_follows_the_rule(norms: list[float], verdict: str) -> None:
    result = fit_log_slope(norms)
    assert result.verdict == verdict
    assert f"D > {DECADES_LIMIT:g}" in result.rule


def test_the_slope_of_a_geometric_series_is_its_factor() -> None:
    result = fit_log_slope([3 * 1.5**-index for index in range(9)])
    assert result.factor_per_block == pytest.approx(1.5)
    assert result.decades == pytest.approx(8 * math.log10(1.5))
