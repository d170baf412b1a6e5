"""Kernel alignment, nearest neighbors and linear probes against formulas and other implementations."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from reslab.analysis.features import (
    SimilarityOptions,
    analyze_similarity,
    cka,
    gram_matrix,
    hsic_biased,
    hsic_unbiased,
)
from reslab.analysis.layers import layer_outputs, pool_features
from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.probes import LinearProbeOptions, NeighborOptions, analyze_neighbors, analyze_probes
from reslab.analysis.target import AnalysisTarget, match_shape, sample_images
from reslab.nn.factory import create_model


@pytest.fixture(scope="module")
def target() -> AnalysisTarget:
    (result,) = open_targets(
        ["resnet20_cifar:depths=1,1,1:in_channels=1"], num_images=24, arch_overrides={"image_size": "8,8"}
    )
    return result


def bare(number: int = 12) -> AnalysisTarget:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    labels = torch.arange(number) % 3
    images = torch.randn(number, 1, 6, 6) + 2 * labels[:, None, None, None]
    model(images)
    return target_from_module(model, images, labels)


def features(number: int = 10, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_is_kornblith_equation_4() -> None:
    x, y = features(seed=0), features(width=4, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    norm = torch.linalg.matrix_norm
    expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert cka(gram_matrix(x), gram_matrix(y)) == pytest.approx(float(expected))


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    x = features()
    turned = x @ torch.linalg.qr(features(6, 6, 2)).Q * 3 + 5
    assert cka(gram_matrix(x), gram_matrix(turned)) == pytest.approx(1)
    assert cka(gram_matrix(x), gram_matrix(turned), unbiased=True) == pytest.approx(1)
    assert cka(gram_matrix(x), gram_matrix(torch.ones(10, 2))) is None


def test_the_biased_hsic_is_a_trace() -> None:
    k, ell = features(8, 3, 0) @ features(8, 3, 0).T, features(8, 2, 1) @ features(8, 2, 1).T
    h = torch.eye(8) - 1 / 8
    assert hsic_biased(k, ell) == pytest.approx(float(torch.trace(k @ h.double() @ ell @ h.double())) / 49)


def test_the_unbiased_hsic_is_the_mean_over_all_quadruples() -> None:
    x, y = features(6, 3, 0), features(6, 2, 1)
    k, ell = (x @ x.T).numpy(), (y @ y.T).numpy()
    every = list(permutations(range(6), 4))
    terms = [k[i, j] * (ell[i, j] + ell[q, r] - 2 * ell[i, q]) for i, j, q, r in every]
    assert hsic_unbiased(torch.tensor(k), torch.tensor(ell)) == pytest.approx(float(np.mean(terms)))


def test_the_unbiased_estimator_finds_nothing_in_what_is_unrelated() -> None:
    x, y = features(40, 300, 0), features(40, 300, 1)
    assert cka(gram_matrix(x), gram_matrix(y)) > 0.8
    assert abs(cka(gram_matrix(x), gram_matrix(y), unbiased=True)) < 0.1


def test_layers_of_one_and_of_two_networks(target: AnalysisTarget) -> None:
    other, _ = open_targets(
        ["plain20_cifar:depths=1,1,1:in_channels=1", "resnet20_cifar"],
        num_images=24,
        arch_overrides={"image_size": "8,8"},
    )
    result = analyze_similarity([target, other])
    assert [(pair.first, pair.second) for pair in result.pairs] == [
        (target.name, target.name),
        (other.name, other.name),
        (target.name, other.name),
    ]
    assert result.pairs[0].rows == ("conv1", "layer1.0", "layer2.0", "layer3.0")
    values = np.array(result.pairs[0].values)
    assert np.allclose(values, values.T)
    assert np.allclose(np.diag(values), 1)
    one, two = (layer_outputs(each.model, ["layer2.0"], each.images)["layer2.0"] for each in (target, other))
    assert result.pairs[2].values[2][2] == pytest.approx(cka(gram_matrix(one), gram_matrix(two)))


def test_networks_with_other_images_are_not_compared(target: AnalysisTarget) -> None:
    (other,) = open_targets(["resnet20_cifar:depths=1,1,1"], num_images=20)
    with pytest.raises(ValueError, match="on the same images"):
        analyze_similarity([target, other])
    with pytest.raises(ValueError, match="at least 4 images"):
        analyze_similarity([bare(3)])
    with pytest.raises(ValueError, match="unknown layer 'layer7'"):
        analyze_similarity([target], SimilarityOptions(layers=("layer7",)))


def test_neighbours_vote_as_scikit_learn_has_it(target: AnalysisTarget) -> None:
    result = analyze_neighbors(target, NeighborOptions(num_neighbors=1, max_searched=300))
    assert target.data is not None
    x, y = sample_images(target, "train", 300, 0)
    known, analyze = (
        pool_features(layer_outputs(target.model, ["layer3.0"], part)["layer3.0"]).numpy()
        for part in (x, target.images)
    )
    rule = KNeighborsClassifier(1, metric="cosine").fit(known, y.numpy())
    assert (
        result.knn_accuracy == result.same_class_fraction == pytest.approx(rule.score(analyze, target.labels.numpy()))
    )
    assert (result.num_searched, result.split, result.layer) == (300, "train", "layer3.0")


def test_no_image_is_its_own_neighbor() -> None:
    result = analyze_neighbors(bare(), NeighborOptions(num_neighbors=3, num_queries=2, layer="0"))
    assert (result.num_searched, result.split, len(result.queries)) == (12, "", 2)
    assert all(neighbour.cosine < 1 for query in result.queries for neighbour in query.neighbors)
    assert result.same_class_fraction > result.chance_accuracy


def test_more_neighbors_than_images() -> None:
    with pytest.raises(ValueError, match="num_neighbors of 1 to 11"):
        analyze_neighbors(bare(), NeighborOptions(num_neighbors=12, layer="0"))


def test_probes_recover_a_linear_label() -> None:
    inputs = bare(60)
    result = analyze_probes(inputs, LinearProbeOptions(layers=("0",)))
    assert (result.num_fit_images, result.num_images) == (30, 30)
    assert result.probes[0].num_features == 4
    assert result.probes[0].score > 0.9
    blind = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Identity()), nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(blind[0][0].weight)
    unseen = analyze_probes(target_from_module(blind, inputs.images, inputs.labels), LinearProbeOptions(layers=("0",)))
    assert unseen.probes[0].score == pytest.approx(1 / 3)


def test_probes_of_every_block(target: AnalysisTarget) -> None:
    result = analyze_probes(target, LinearProbeOptions(max_fit_images=100))
    assert [probe.layer for probe in result.probes] == ["conv1", "layer1.0", "layer2.0", "layer3.0"]
    with torch.no_grad():
        own = (target.model(target.images).argmax(1) == target.labels).float().mean()
    assert result.model_score == pytest.approx(float(own))
    assert result == analyze_probes(target, LinearProbeOptions(max_fit_images=100))


@pytest.mark.parametrize("options", [{"max_fit_images": 1}, {"inverse_regularization": 0.0}])
def test_bad_options_of_probes(target: AnalysisTarget, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_fit_images of at least 2 and inverse_regularization above 0"):
        analyze_probes(target, LinearProbeOptions(**options))


def test_sampled_images_have_the_shape_of_the_target() -> None:
    grey, coloured = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8)
    assert torch.equal(match_shape(grey, coloured), grey.expand(2, 3, 8, 8))
    assert torch.equal(match_shape(coloured, grey), coloured.mean(1, keepdim=True))
    assert match_shape(grey, torch.zeros(1, 1, 16, 12)).shape == (2, 1, 16, 12)
    with pytest.raises(ValueError, match="images of a dataset"):
        sample_images(bare(), "train", 3, 0)


def test_similarity_does_not_depend_on_the_scale_of_features() -> None:
    x, y = features(seed=0), features(width=4, seed=1)
    expected = cka(gram_matrix(x), gram_matrix(y))
    assert cka(gram_matrix(1e-9 * x), gram_matrix(1e9 * y)) == pytest.approx(expected)
    # Equal up to the last digits of float32: the features do not distinguish the samples.
    assert cka(gram_matrix(x), gram_matrix(1000 + 1e-5 * y.float())) is None


def test_a_network_of_layers_alone_has_its_first_convolution_once() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    result = target_from_module(create_model("book_net"), images, labels)
    assert analyze_similarity([result]).pairs[0].rows == ("conv1.0", "conv1.3")
    assert [probe.layer for probe in analyze_probes(result).probes] == ["conv1.0", "conv1.3"]
    twice = layer_outputs(result.model, ["conv1.0", "conv1.0"], images)
    assert torch.equal(twice["conv1.0"], layer_outputs(result.model, ["conv1.0"], images)["conv1.0"])


def test_no_image_is_its_own_neighbor_in_its_own_split(target: AnalysisTarget) -> None:
    result = analyze_neighbors(target, NeighborOptions(num_neighbors=1, num_queries=3, split="test", layer="conv1"))
    assert result.split == "test"
    assert all(query.neighbors[0].image != query.image for query in result.queries)
