"""Deleting and permuting blocks, and the gradient along paths, against computations by hand."""

from itertools import combinations
from math import comb
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.lesion import (
    LesionOptions,
    analyze_lesion,
    build_block_links,
    kendall_tau,
    measure_path_lengths,
    path_gradient,
    random_swaps,
    spaced_counts,
)
from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.target import AnalysisTarget, EvalBatches
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.config import to_dict

FEW = LesionOptions(draws=2, path_draws=2, path_images=3)


def network(**axes: Any) -> ResidualNetwork:
    torch.manual_seed(0)
    shape = {"depths": (2, 1), "widths": (8, 16), "strides": (1, 2)}
    model = create_model("resnet20_cifar", stem="conv3(8) norm act", num_classes=4, **(shape | axes))
    assert isinstance(model, ResidualNetwork)
    return model.eval()


def target(model: nn.Module) -> AnalysisTarget:
    torch.manual_seed(1)
    return target_from_module(model, torch.randn(6, 3, 16, 16), torch.arange(6) % 4)


def gradient_of(model: ResidualNetwork, x: Tensor, y: Tensor) -> Tensor:
    """Return the whole gradient at the first block's input, by autograd."""
    inner = model.forward_stem(x).detach().requires_grad_()
    out = inner
    for _, stage in model.stages():
        out = stage(out)
    return torch.autograd.grad(functional.cross_entropy(model.forward_tail(out), y), inner)[0]


@pytest.mark.parametrize("mix", ["add", "scale(0.5,0.5)", "gate(-1)", "shortcut-gate(-1)"])
@pytest.mark.parametrize("order", ["original", "full-preact", "bn-after-add"])
def test_the_gradients_of_all_paths_add_up_to_the_gradient(mix: str, order: str) -> None:
    result = target(network(merge=mix, order=order, shortcut="project"))
    links, gradient = build_block_links(result.model, result.images, result.labels)
    subsets = [chosen for k in range(4) for chosen in combinations(range(3), k)]
    total = sum(path_gradient(links, gradient, chosen) for chosen in subsets)
    whole = gradient_of(result.model, result.images, result.labels)
    assert len(links) == 3
    torch.testing.assert_close(total, whole, atol=1e-6 * float(whole.abs().max()), rtol=1e-4)


def test_lengths_are_binomial_and_shares_add_up() -> None:
    paths, why = measure_path_lengths(target(network()), 3, 4, 0)
    assert why == ""
    assert [path.length for path in paths] == [0, 1, 2, 3]
    assert [path.fraction for path in paths] == [comb(3, k) / 8 for k in range(4)]
    assert sum(path.contribution for path in paths) == pytest.approx(1)


def test_the_path_of_no_branch_is_that_of_the_shortcuts() -> None:
    result = target(network(order="relu-before-add", depths=(3,), widths=(8,), strides=(1,)))
    links, gradient = build_block_links(result.model, result.images, result.labels)
    assert torch.equal(path_gradient(links, gradient, ()), gradient)


def test_plain_networks_and_modules_without_shortcuts_have_no_paths() -> None:
    assert measure_path_lengths(target(network(merge="none")), 2, 2, 0) == (
        (),
        "paths are not measured: a plain network has only one",
    )
    foreign = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.LazyLinear(4))
    assert "got: a Sequential" in measure_path_lengths(target(foreign), 2, 2, 0)[1]


def test_deleting_each_block_equals_disabling_it_manually() -> None:
    inputs = target(network())
    result = analyze_lesion(inputs, FEW)
    block = inputs.model.get_submodule("layer1.1")
    block.branch = lambda p: p * 0
    with torch.no_grad():
        logits = inputs.model(inputs.images)
    assert result.deletions[1].block == "layer1.1"
    assert result.deletions[1].error == int((logits.argmax(1) != inputs.labels).sum()) / 6
    assert result.deletions[1].loss == pytest.approx(float(functional.cross_entropy(logits, inputs.labels)))


def test_the_result_of_a_residual_network() -> None:
    result = analyze_lesion(target(network()), FEW)
    assert (result.kind, result.num_images, result.chance_error) == ("residual", 6, 0.75)
    assert [(one.num_deleted, len(one.errors)) for one in result.multi_deletions] == [(1, 2), (2, 2), (3, 1)]
    assert {one.num_swaps for one in result.permutations} == {1, 2, 3}
    assert to_dict(result)["deletions"][0]["block"] == "layer1.0"


def test_deleting_a_block_with_a_zero_branch_changes_nothing() -> None:
    model = network()
    for _, block in model.blocks():
        nn.init.zeros_(block.last_norms()[-1].weight)
    result = analyze_lesion(target(model), FEW)
    assert {one.loss for one in result.deletions} == {result.loss}
    assert {error for one in result.multi_deletions for error in one.errors} == {result.error}


def test_in_a_plain_network_blocks_of_equal_shapes_can_be_deleted() -> None:
    result = analyze_lesion(target(network(merge="none")), FEW)
    assert result.kind == "plain"
    assert [one.error is None for one in result.deletions] == [False, False, True]
    assert "changes the shape" in result.deletions[2].reason
    assert result.paths == ()


def test_a_whole_split_can_be_evaluated() -> None:
    (result,) = open_targets(["resnet20_cifar:depths=1,1,1"], num_images=4)
    assert result.data is not None
    with pytest.raises(ValueError, match="unknown split of digits 'tset'"):
        EvalBatches(result, "tset")
    with pytest.raises(ValueError, match="images of a dataset"):
        EvalBatches(target(network()), "test")
    assert [len(y) for _, y in EvalBatches(result)] == [4]
    whole = list(EvalBatches(result, "test"))
    assert sum(len(y) for _, y in whole) == len(result.data.split("test"))
    assert {x.shape[1:] for x, _ in whole} == {result.images.shape[1:]}


def test_nothing_of_the_network_changes() -> None:
    result = target(network())
    before, whole = {k: v.clone() for k, v in result.model.state_dict().items()}, result.model(result.images)
    analyze_lesion(result, FEW)
    assert all(torch.equal(v, before[k]) for k, v in result.model.state_dict().items())
    assert torch.equal(result.model(result.images), whole)
    assert all(parameter.grad is None for parameter in result.model.parameters())


def test_invalid_numbers_are_errors() -> None:
    with pytest.raises(ValueError, match="draws of at least 0"):
        analyze_lesion(target(network()), LesionOptions(draws=-1))


def test_orders_and_their_tau() -> None:
    names = ["a", "b", "c", "d"]
    assert kendall_tau(names, names) == 1
    assert kendall_tau(names, names[::-1]) == -1
    assert kendall_tau(names, ["b", "a", "c", "d"]) == pytest.approx(4 / 6)
    assert random_swaps(names, [("a", "c")], 1, Random(0)) == ["c", "b", "a", "d"]
    assert random_swaps(names, [("a", "c")], 2, Random(0)) == names


def test_numbers_deleted_are_spread() -> None:
    assert spaced_counts(4) == [1, 2, 3, 4]
    assert (spaced_counts(54)[0], spaced_counts(54)[-1], len(spaced_counts(54))) == (1, 54, 10)
