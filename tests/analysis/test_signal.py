"""Telescoping sums, shortcut factors and block orders: exact where they should hold, measured where they do not."""

import math

import pytest
import torch
import torchvision
from torch import nn

from reslab.analysis.gradients import DECADES_LIMIT, SCALING_RULE, SLOPE_RULE, fit_log_slope
from reslab.analysis.open_targets import HE2016_ORDERS, open_targets, target_from_module
from reslab.analysis.signal import (
    ROUNDING_TOLERANCE,
    IdentityObstacle,
    OrderOptions,
    OrderResult,
    ScalingOptions,
    ScalingResult,
    TelescopeOptions,
    TelescopeResult,
    analyze_orders,
    analyze_scaling,
    analyze_telescope,
)
from reslab.analysis.target import AnalysisTarget
from reslab.nn.factory import create_model


def analyze(name: str, statistics: str = "auto") -> TelescopeResult:
    [target] = open_targets([name], data="random", num_images=4)
    return analyze_telescope(target, TelescopeOptions(statistics))


SMALL = "resnet20_cifar:depths=3,2,2:widths=16,32,32:image_size=16,16"


@pytest.mark.parametrize("order", ["full-preact", "relu-before-add", "relu-preact", "norm-free-preact"])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_telescoping_sum_holds_where_shortcut_and_output_are_identities(order: str, statistics: str) -> None:
    result = analyze(f"{SMALL}:order={order}", statistics)
    assert result.verdict == "holds"
    assert result.max_inexact_error is None
    assert result.max_exact_error is not None
    assert result.max_exact_error < ROUNDING_TOLERANCE
    assert [block.label for block in result.blocks if block.error is None] == ["layer2.0", "layer3.0"]  # shapes change


@pytest.mark.parametrize(
    ("overrides", "obstacle", "text"),
    [
        ("order=original", IdentityObstacle.OPERATION_AFTER_MERGE, "the addition is followed by act"),
        ("order=bn-after-add", IdentityObstacle.OPERATION_AFTER_MERGE, "the addition is followed by norm act"),
        ("order=full-preact:merge=scale(0.5,1)", IdentityObstacle.CHANGED_SHORTCUT, "the merge changes the shortcut"),
        ("merge=none", IdentityObstacle.NO_SHORTCUT, "there is no shortcut"),
        (
            "order=full-preact:shortcut=project-all",
            IdentityObstacle.SHORTCUT_TYPE,
            "the shortcut is 1x1 convolution and norm in every block (option C)",
        ),
    ],
)
def test_a_broken_telescoping_sum_names_its_reason_and_error(
    overrides: str, obstacle: IdentityObstacle, text: str
) -> None:
    result = analyze(f"{SMALL}:{overrides}")
    assert result.verdict == "fails"
    assert result.max_inexact_error is not None
    assert result.max_inexact_error > 0.01
    assert (result.obstacle, result.obstacle_text) == (obstacle, text)


def test_the_telescoping_error_is_what_relu_removes() -> None:
    """One block: x_L - x - F = relu(x + F) - (x + F), the negative part."""
    [target] = open_targets(["resnet20_cifar:depths=1,1,1"], data="random", num_images=4)
    result = analyze_telescope(target, TelescopeOptions("running")).blocks[0]
    model = target.model
    with torch.no_grad():
        x = model.forward_stem(target.images)  # type: ignore[operator]
        block = model.get_submodule("layer1.0")
        total = x + block.branch(x)  # type: ignore[operator]
        expected = total.clamp(max=0).norm() / total.clamp(min=0).norm()
    assert result.error == pytest.approx(float(expected), rel=1e-5)


def test_a_shared_block_is_added_for_each_call() -> None:
    result = analyze("book_resdeep:depths=4")
    assert [block.label for block in result.blocks] == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)", "layer1.0 (4)"]
    assert result.verdict == "holds"


def test_a_third_party_module_has_the_result_of_the_network_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4)
    ours = create_model("resnet18", num_classes=4, pretrained=theirs.state_dict())
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    results = [
        analyze_telescope(target_from_module(model, x, y, "one"), TelescopeOptions()) for model in (theirs, ours)
    ]
    assert results[0] == results[1]
    assert results[0].obstacle is IdentityObstacle.OPERATION_AFTER_MERGE


def test_modules_whose_blocks_cannot_be_decomposed_are_an_error() -> None:
    model = torchvision.models.mobilenet_v2(width_mult=0.25)
    other = target_from_module(model, torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="equals one of the zoo; got: a MobileNetV2"):
        analyze_telescope(other, TelescopeOptions())
    unitless: AnalysisTarget = target_from_module(
        create_model("book_net"), torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    )
    with pytest.raises(ValueError, match="a network with blocks"):
        analyze_telescope(unitless, TelescopeOptions())
    with pytest.raises(ValueError, match="running"):
        analyze(SMALL, "runing")
    assert isinstance(other.model, nn.Module)


SMALL_scaling = "resnet20_cifar:depths=4,2,2:widths=16,32,32:image_size=16,16"


def analyze_scaling_of(axes: str) -> ScalingResult:
    [target] = open_targets([f"{SMALL_scaling}:{axes}"], data="random", num_images=4)
    return analyze_scaling(target, ScalingOptions())


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(0.4, "vanishing"), (0.5, "healthy"), (1.0, "healthy"), (1.25, "healthy"), (2.5, "exploding")],
)
def test_the_gradient_by_the_shortcuts_is_the_product_of_the_factors(factor: float, verdict: str) -> None:
    """He et al. 2016, Eqs. 6 to 8, where nothing follows the addition."""
    result = analyze_scaling_of(f"order=full-preact:merge=scale({factor},1)")
    stage = [block for block in result.blocks if block.name.startswith("layer1")][1:]
    for left, block in zip((3, 2, 1), stage, strict=True):
        assert block.factor_product == pytest.approx(factor**left)
        assert block.shortcut_gradient == pytest.approx(factor**left, rel=1e-5)
        assert block.branch_factor == pytest.approx(factor ** (left - 1))
        assert block.error == pytest.approx(0, abs=1e-5)
    identity = [block for block in result.blocks if block.factor is not None]
    assert len(identity) == 6  # layer2.0 and layer3.0 change the shape
    assert result.factor_product == pytest.approx(factor**6)
    assert result.decades == pytest.approx(6 * math.log10(factor))
    assert result.verdict == verdict


def test_scaling_and_gradients_share_the_definition_of_vanishing() -> None:
    """The gradient through the shortcuts alone has the verdict of the product of the factors."""
    for factor in (0.4, 0.46, 0.47, 1.0, 2.1, 2.2):
        result = analyze_scaling_of(f"order=full-preact:merge=scale({factor},1)")
        product = [factor**index for index in range(6, -1, -1)]
        assert result.verdict == fit_log_slope(product).verdict
    assert f"D < -{DECADES_LIMIT:g}" in SCALING_RULE
    assert f"D < -{DECADES_LIMIT:g}" in SLOPE_RULE


def test_a_nearly_closed_gate_is_healthy() -> None:
    """He et al. 2016, Sec. 3.1: a gate at a bias of -6 is nearly the identity."""
    [target] = open_targets(["resnet56_cifar:merge=gate(-6)"], data="random", num_images=2)
    result = analyze_scaling(target, ScalingOptions())
    assert 0.8 < result.factor_product < 1
    assert result.verdict == "healthy"


def test_the_factor_of_an_exclusive_gate_is_one_minus_its_value() -> None:
    result = analyze_scaling_of("order=full-preact:merge=gate(-2)")
    for block in result.blocks:
        assert block.gate_value is not None
        assert 0 < block.gate_value < 1
        if block.factor is not None:
            assert block.factor == pytest.approx(1 - block.gate_value, rel=1e-6)
        if block.error is not None:
            assert block.error == pytest.approx(0, abs=1e-5)
    assert result.verdict == "healthy"


def test_a_gate_with_zero_weights_has_the_sigmoid_of_its_bias() -> None:
    [target] = open_targets([f"{SMALL_scaling}:merge=shortcut-gate(-6)"], data="random", num_images=4)
    with torch.no_grad():
        for _, block in target.model.blocks():  # type: ignore[operator]
            block.merge.gate.weight.zero_()
    result = analyze_scaling(target, ScalingOptions())
    assert [block.gate_value for block in result.blocks] == pytest.approx([1 / (1 + math.exp(6))] * 8, rel=1e-5)


def test_relu_after_the_addition_reduces_the_gradient_further() -> None:
    result = analyze_scaling_of("order=original")
    assert result.verdict == "healthy"
    assert all(block.shortcut_gradient < 1 for block in result.blocks if block.shortcut_gradient is not None)


def test_a_plain_network_has_nothing_to_scale() -> None:
    with pytest.raises(ValueError, match="a network with shortcuts"):
        analyze_scaling_of("merge=none")


@pytest.fixture(scope="module")
def five() -> dict[str, OrderResult]:
    name = "resnet20_cifar:order=*:depths=5,2,2:widths=16,16,16"
    result = [analyze_orders(target, OrderOptions()) for target in open_targets([name], num_images=16)]
    return {each.order: each for each in result}


def test_order_star_means_the_five_orders_of_he2016(five: dict[str, OrderResult]) -> None:
    assert tuple(five) == HE2016_ORDERS


def test_sums_are_preserved_where_nothing_follows_the_addition(five: dict[str, OrderResult]) -> None:
    for order in ("relu-before-add", "relu-preact", "full-preact"):
        assert five[order].max_superposition_error == 0
    assert all(block.superposition_error > 0.05 for block in five["original"].blocks)
    # Batch norm after the addition alters the shortcut's signal in every block, ReLU alone far less (Sec. 4.1).
    smallest = min(block.superposition_error for block in five["bn-after-add"].blocks)
    assert smallest > 1.3 * five["original"].max_superposition_error


def test_relu_before_the_addition_makes_branches_that_only_add(five: dict[str, OrderResult]) -> None:
    assert five["relu-before-add"].min_branch == 0
    assert all(block.branch_negative_fraction == 0 for block in five["relu-before-add"].blocks)
    stage = [block.mean for block in five["relu-before-add"].blocks if block.name.startswith("layer1")]
    assert stage == sorted(stage)  # so the signal grows from block to block
    for order in ("original", "relu-preact", "full-preact"):
        assert five[order].min_branch < -1


def test_the_variance_adds_up_in_full_preact_and_is_reset_by_bn_after_add(five: dict[str, OrderResult]) -> None:
    growth = [block.growth for block in five["full-preact"].blocks if block.name.startswith("layer1")]
    assert growth[0] == 1
    assert growth == sorted(growth)
    assert five["bn-after-add"].max_growth < max(growth)


def test_the_superposition_error_equals_a_calculation_by_hand() -> None:
    [target] = open_targets(["resnet20_cifar:depths=1,1,1"], data="random", num_images=4)
    result = analyze_orders(target, OrderOptions("running")).blocks[0]
    block = target.model.get_submodule("layer1.0")
    with torch.no_grad():
        x = target.model.forward_stem(target.images)  # type: ignore[operator]
        branch = block.branch(x)  # type: ignore[operator]
        together = (x + branch).relu()
        expected = (together - x.relu() - branch.relu()).norm() / together.norm()
    assert result.superposition_error == pytest.approx(float(expected), rel=1e-5)
    assert result.variance == pytest.approx(float(together.double().var(correction=0)), rel=1e-6)
