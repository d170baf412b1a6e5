"""Factors on the shortcuts: the product that is predicted is the gradient that comes back."""

import math

import pytest
import torch

from reslab.analysis.signal import Scaling, ScalingOptions, ask_scaling
from reslab.analysis.subject import open_subjects

SMALL = "resnet20_cifar:depths=4,2,2:widths=16,32,32:image_size=16,16"


def asked(axes: str) -> Scaling:
    [subject] = open_subjects([f"{SMALL}:{axes}"], data="random", num_images=4)
    return ask_scaling(subject, ScalingOptions())


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "vanishing"), (1.0, "kept"), (1.25, "exploding")])
def test_the_gradient_by_the_shortcuts_is_the_product_of_the_factors(factor: float, verdict: str) -> None:
    """He et al. 2016, Eqs. 6 to 8, where nothing follows the addition."""
    found = asked(f"order=full-preact:mix=scale({factor},1)")
    stage = [unit for unit in found.units if unit.name.startswith("layer1")][1:]
    for left, unit in zip((3, 2, 1), stage, strict=True):
        assert unit.product == pytest.approx(factor**left)
        assert unit.direct == pytest.approx(factor**left, rel=1e-5)
        assert unit.carried == pytest.approx(factor ** (left - 1))
        assert unit.error == pytest.approx(0, abs=1e-5)
    identity = [unit for unit in found.units if unit.factor is not None]
    assert len(identity) == 6  # layer2.0 and layer3.0 change the shape
    assert found.product == pytest.approx(factor**6)
    assert found.verdict == verdict


def test_an_exclusive_gate_lets_one_minus_its_openness_through() -> None:
    found = asked("order=full-preact:mix=gate(-2)")
    for unit in found.units:
        assert unit.openness is not None
        assert 0 < unit.openness < 1
        if unit.factor is not None:
            assert unit.factor == pytest.approx(1 - unit.openness, rel=1e-6)
        if unit.error is not None:
            assert unit.error == pytest.approx(0, abs=1e-5)
    assert found.verdict == "vanishing"


def test_openness_at_the_start_is_the_sigmoid_of_the_bias_where_the_gate_s_weights_are_zero() -> None:
    [subject] = open_subjects([f"{SMALL}:mix=shortcut-gate(-6)"], data="random", num_images=4)
    with torch.no_grad():
        for _, unit in subject.model.units():  # type: ignore[operator]
            unit.mix.gate.weight.zero_()
    found = ask_scaling(subject, ScalingOptions())
    assert [unit.openness for unit in found.units] == pytest.approx([1 / (1 + math.exp(6))] * 8, rel=1e-5)


def test_relu_after_the_addition_takes_more_than_the_factors_say() -> None:
    found = asked("order=original")
    assert found.verdict == "kept"
    assert all(unit.direct < 1 for unit in found.units if unit.direct is not None)


def test_a_plain_network_has_nothing_to_scale() -> None:
    with pytest.raises(ValueError, match="a network with shortcuts"):
        asked("mix=none")
