"""What the five orders do to the signal, as He et al. 2016 say it of them."""

import pytest
import torch

from reslab.analysis.orders import OrderOptions, Orders, ask_orders
from reslab.analysis.places import FIVE_ORDERS
from reslab.analysis.subject import open_subjects


@pytest.fixture(scope="module")
def five() -> dict[str, Orders]:
    name = "resnet20_cifar:order=*:depths=5,2,2:widths=16,16,16"
    found = [ask_orders(subject, OrderOptions()) for subject in open_subjects([name], num_images=16)]
    return {each.order: each for each in found}


def test_the_star_is_each_of_the_five(five: dict[str, Orders]) -> None:
    assert tuple(five) == FIVE_ORDERS


def test_sums_pass_where_nothing_comes_after_the_addition(five: dict[str, Orders]) -> None:
    for order in ("relu-before-add", "relu-preact", "full-preact"):
        assert five[order].worst_superposition == 0
    assert all(unit.superposition > 0.05 for unit in five["original"].units)
    # Batch norm after the addition alters the shortcut's signal in every unit, ReLU alone far less (Sec. 4.1).
    smallest = min(unit.superposition for unit in five["bn-after-add"].units)
    assert smallest > 1.3 * five["original"].worst_superposition


def test_relu_before_the_addition_makes_branches_that_only_add(five: dict[str, Orders]) -> None:
    assert five["relu-before-add"].lowest_branch == 0
    assert all(unit.branch_negative == 0 for unit in five["relu-before-add"].units)
    stage = [unit.mean for unit in five["relu-before-add"].units if unit.name.startswith("layer1")]
    assert stage == sorted(stage)  # so the signal grows, unit by unit
    for order in ("original", "relu-preact", "full-preact"):
        assert five[order].lowest_branch < -1


def test_the_variance_adds_up_in_full_preact_and_is_reset_by_bn_after_add(five: dict[str, Orders]) -> None:
    growth = [unit.growth for unit in five["full-preact"].units if unit.name.startswith("layer1")]
    assert growth[0] == 1
    assert growth == sorted(growth)
    assert five["bn-after-add"].largest_growth < max(growth)


def test_superposition_by_hand() -> None:
    [subject] = open_subjects(["resnet20_cifar:depths=1,1,1"], data="random", num_images=4)
    found = ask_orders(subject, OrderOptions("running")).units[0]
    unit = subject.model.get_submodule("layer1.0")
    with torch.no_grad():
        x = subject.model.run_stem(subject.images)  # type: ignore[operator]
        branch = unit.branch(x)  # type: ignore[operator]
        together = (x + branch).relu()
        expected = (together - x.relu() - branch.relu()).norm() / together.norm()
    assert found.superposition == pytest.approx(float(expected), rel=1e-5)
    assert found.variance == pytest.approx(float(together.double().var(correction=0)), rel=1e-6)
