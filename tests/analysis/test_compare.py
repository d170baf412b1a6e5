"""Two networks side by side: exact tests against scipy, flips and distances by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from reslab.analysis.compare import CompareOptions, compare_models, weight_distances
from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.target import AnalysisTarget
from reslab.metrics.intervals import clopper_pearson_interval, mcnemar_p_value, run_paired_test
from reslab.spec.config import to_dict

PLACES = ["resnet20_cifar:depths=1,1,1:in_channels=1", "plain20_cifar:depths=1,1,1:in_channels=1"]


@pytest.fixture(scope="module")
def both() -> list[AnalysisTarget]:
    return open_targets(PLACES, num_images=16, arch_overrides={"image_size": "8,8"})


@pytest.mark.parametrize(("b", "c"), [(0, 5), (5, 5), (1, 9), (30, 12), (0, 0), (1500, 1400)])
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_p_value(b, c) == pytest.approx(expected)


@pytest.mark.parametrize(("hits", "number"), [(0, 5), (3, 9), (5, 5), (700, 1500)])
def test_the_interval_is_clopper_and_pearsons(hits: int, number: int) -> None:
    expected = stats.binomtest(hits, number).proportion_ci(method="exact")
    assert clopper_pearson_interval(hits, number) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_an_interval_of_nothing_is_everything() -> None:
    assert clopper_pearson_interval(0, 0) == (0.0, 1.0)


def test_the_pairs_are_counted() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    first, second = torch.tensor([0, 0, 1, 0, 0, 0]), torch.tensor([0, 1, 0, 1, 0, 1])
    result = run_paired_test(first, second, labels)
    assert (result.both_correct, result.only_first, result.only_second, result.neither_correct) == (1, 2, 1, 2)
    assert result.agreement == pytest.approx(2 / 6)
    assert result.difference == pytest.approx(-1 / 6)
    assert result.ci_low < result.difference < result.ci_high
    assert (run_paired_test(first, first, labels).ci_low, run_paired_test(first, first, labels).ci_high) == (0, 0)


@pytest.mark.parametrize(("b", "c"), [(0, 5), (0, 6), (3, 20), (9, 20)])
def test_the_interval_leaves_out_zero_where_the_test_decides(b: int, c: int) -> None:
    labels = torch.zeros(100, dtype=torch.long)
    first, second = torch.zeros(100, dtype=torch.long), torch.zeros(100, dtype=torch.long)
    second[:b] = 1
    first[50 : 50 + c] = 1
    result = run_paired_test(first, second, labels)
    assert (result.ci_low > 0) == (result.p_value < 0.05)


def test_flipped_predictions_name_the_class_of_each_network(both: list[AnalysisTarget]) -> None:
    result = compare_models(both, CompareOptions(split="own"))
    with torch.no_grad():
        one, two = (target.model(target.images) for target in both)
    labels = both[0].labels
    flipped = [i for i in range(16) if (one[i].argmax() == labels[i]) != (two[i].argmax() == labels[i])]
    assert {flip.index for flip in result.flipped} == set(flipped)
    for flip in result.flipped:
        assert flip.first == both[0].classes[int(one[flip.index].argmax())]
        assert flip.second_probability == pytest.approx(float(two[flip.index].softmax(0).max()))
    assert result.models[0].score == pytest.approx(float((one.argmax(1) == labels).float().mean()))


def test_the_whole_split_is_evaluated_by_default(both: list[AnalysisTarget]) -> None:
    result = compare_models(both, CompareOptions(max_flipped=3))
    assert both[0].data is not None
    assert (result.split, result.num_images) == ("test", len(both[0].data.split("test")))
    assert len(result.flipped) == 3
    to_dict(result)


def test_a_network_and_itself(both: list[AnalysisTarget]) -> None:
    result = compare_models([both[0], both[0]], CompareOptions(split="own"))
    assert (result.paired_test.p_value, result.flipped, result.num_unmatched) == (1.0, (), 0)
    assert {layer.distance for layer in result.weight_distances} == {0.0}


def test_distances_between_the_weights_that_both_have() -> None:
    def made(scale: float, width: int) -> AnalysisTarget:
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, width))
        nn.init.constant_(model[1].weight, scale)
        return target_from_module(model, torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long))

    (layer,), other = weight_distances(made(1.0, 2), made(3.0, 3))
    assert layer.name == "1.weight"
    assert layer.norms == (pytest.approx(8**0.5), pytest.approx(3 * 8**0.5))
    assert layer.distance == pytest.approx(2 / 2)
    assert layer.cosine == pytest.approx(1)
    assert other == 2


@pytest.mark.parametrize("number", [1, 3])
def test_exactly_two_networks_are_required(both: list[AnalysisTarget], number: int) -> None:
    with pytest.raises(ValueError, match="two networks to compare"):
        compare_models((both * 2)[:number])


def test_other_images_are_an_error(both: list[AnalysisTarget], tmp_path: Path) -> None:
    other: Any = target_from_module(both[0].model, both[0].images, (both[0].labels + 1) % 10)
    with pytest.raises(ValueError, match="on the same images"):
        compare_models([both[0], other], CompareOptions(split="own"))
