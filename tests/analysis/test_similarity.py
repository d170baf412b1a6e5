"""Kernel alignment, neighbours and linear probes, held against formulas and computations of others."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from reslab.analysis.inputs import fitted, more_pictures
from reslab.analysis.layers import outputs_of, pooled
from reslab.analysis.linear_probes import ProbeOptions, probes
from reslab.analysis.nearest import NearestOptions, nearest
from reslab.analysis.similarity import SimilarityOptions, cka, gram, hsic_biased, hsic_unbiased, similarity
from reslab.analysis.subject import Subject, open_subjects, subject_of
from reslab.nn.factory import create_model


@pytest.fixture(scope="module")
def subject() -> Subject:
    (found,) = open_subjects(["resnet20_cifar:depths=1,1,1:in_channels=1"], num_images=24, axes={"image_size": "8,8"})
    return found


def bare(number: int = 12) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    labels = torch.arange(number) % 3
    images = torch.randn(number, 1, 6, 6) + 2 * labels[:, None, None, None]
    model(images)
    return subject_of(model, images, labels)


def features(number: int = 10, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_is_kornblith_equation_4() -> None:
    x, y = features(seed=0), features(width=4, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    norm = torch.linalg.matrix_norm
    expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert cka(gram(x), gram(y)) == pytest.approx(float(expected))


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    x = features()
    turned = x @ torch.linalg.qr(features(6, 6, 2)).Q * 3 + 5
    assert cka(gram(x), gram(turned)) == pytest.approx(1)
    assert cka(gram(x), gram(turned), unbiased=True) == pytest.approx(1)
    assert cka(gram(x), gram(torch.ones(10, 2))) is None


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
    assert cka(gram(x), gram(y)) > 0.8
    assert abs(cka(gram(x), gram(y), unbiased=True)) < 0.1


def test_layers_of_one_and_of_two_networks(subject: Subject) -> None:
    other, _ = open_subjects(
        ["plain20_cifar:depths=1,1,1:in_channels=1", "resnet20_cifar"], num_images=24, axes={"image_size": "8,8"}
    )
    answer = similarity([subject, other])
    assert [(pair.first, pair.second) for pair in answer.pairs] == [
        (subject.name, subject.name),
        (other.name, other.name),
        (subject.name, other.name),
    ]
    assert answer.pairs[0].rows == ("conv1", "layer1.0", "layer2.0", "layer3.0")
    values = np.array(answer.pairs[0].values)
    assert np.allclose(values, values.T)
    assert np.allclose(np.diag(values), 1)
    one, two = (outputs_of(each.model, ["layer2.0"], each.images)["layer2.0"] for each in (subject, other))
    assert answer.pairs[2].values[2][2] == pytest.approx(cka(gram(one), gram(two)))


def test_networks_that_saw_other_pictures_are_not_compared(subject: Subject) -> None:
    (other,) = open_subjects(["resnet20_cifar:depths=1,1,1"], num_images=20)
    with pytest.raises(ValueError, match="the same pictures"):
        similarity([subject, other])
    with pytest.raises(ValueError, match="at least 4 pictures"):
        similarity([bare(3)])
    with pytest.raises(ValueError, match="unknown layer 'layer7'"):
        similarity([subject], SimilarityOptions(layers=("layer7",)))


def test_neighbours_vote_as_scikit_learn_has_it(subject: Subject) -> None:
    answer = nearest(subject, NearestOptions(neighbours=1, most=300))
    assert subject.data is not None
    x, y = more_pictures(subject, "train", 300, 0)
    known, asked = (
        pooled(outputs_of(subject.model, ["layer3.0"], part)["layer3.0"]).numpy() for part in (x, subject.images)
    )
    rule = KNeighborsClassifier(1, metric="cosine").fit(known, y.numpy())
    assert answer.voted == answer.same_class == pytest.approx(rule.score(asked, subject.labels.numpy()))
    assert (answer.num_searched, answer.split, answer.layer) == (300, "train", "layer3.0")


def test_among_its_own_pictures_none_is_its_own_neighbour() -> None:
    answer = nearest(bare(), NearestOptions(neighbours=3, queries=2, layer="0"))
    assert (answer.num_searched, answer.split, len(answer.queries)) == (12, "", 2)
    assert all(neighbour.cosine < 1 for query in answer.queries for neighbour in query.neighbours)
    assert answer.same_class > answer.chance


def test_more_neighbours_than_pictures() -> None:
    with pytest.raises(ValueError, match="1 to 11 neighbours"):
        nearest(bare(), NearestOptions(neighbours=12, layer="0"))


def test_probes_read_off_what_is_there() -> None:
    found = bare(60)
    answer = probes(found, ProbeOptions(layers=("0",)))
    assert (answer.num_fitted, answer.num_images) == (30, 30)
    assert answer.probes[0].num_features == 4
    assert answer.probes[0].accuracy > 0.9
    blind = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Identity()), nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(blind[0][0].weight)
    unseen = probes(subject_of(blind, found.images, found.labels), ProbeOptions(layers=("0",)))
    assert unseen.probes[0].accuracy == pytest.approx(1 / 3)


def test_probes_of_every_unit_of_a_network(subject: Subject) -> None:
    answer = probes(subject, ProbeOptions(most=100))
    assert [probe.layer for probe in answer.probes] == ["conv1", "layer1.0", "layer2.0", "layer3.0"]
    with torch.no_grad():
        own = (subject.model(subject.images).argmax(1) == subject.labels).float().mean()
    assert answer.own == pytest.approx(float(own))
    assert answer == probes(subject, ProbeOptions(most=100))


@pytest.mark.parametrize("options", [{"most": 1}, {"strength": 0.0}])
def test_bad_options_of_probes(subject: Subject, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="2 pictures or more and a strength above 0"):
        probes(subject, ProbeOptions(**options))


def test_pictures_are_brought_to_the_networks_shape() -> None:
    grey, coloured = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8)
    assert torch.equal(fitted(grey, coloured), grey.expand(2, 3, 8, 8))
    assert torch.equal(fitted(coloured, grey), coloured.mean(1, keepdim=True))
    assert fitted(grey, torch.zeros(1, 1, 16, 12)).shape == (2, 1, 16, 12)
    with pytest.raises(ValueError, match="pictures of a data set"):
        more_pictures(bare(), "train", 3, 0)


def test_faint_features_are_as_alike_as_strong_ones() -> None:
    x, y = features(seed=0), features(width=4, seed=1)
    expected = cka(gram(x), gram(y))
    assert cka(gram(1e-9 * x), gram(1e9 * y)) == pytest.approx(expected)
    # Equal to the last digits of float32: nothing tells the samples apart.
    assert cka(gram(x), gram(1000 + 1e-5 * y.float())) is None


def test_a_network_of_layers_alone_has_its_first_convolution_once() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    found = subject_of(create_model("book_net"), images, labels)
    assert similarity([found]).pairs[0].rows == ("conv1.0", "conv1.3")
    assert [probe.layer for probe in probes(found).probes] == ["conv1.0", "conv1.3"]
    twice = outputs_of(found.model, ["conv1.0", "conv1.0"], images)
    assert torch.equal(twice["conv1.0"], outputs_of(found.model, ["conv1.0"], images)["conv1.0"])


def test_in_its_own_split_no_picture_is_its_own_neighbour(subject: Subject) -> None:
    answer = nearest(subject, NearestOptions(neighbours=1, queries=3, split="test", layer="conv1"))
    assert answer.split == "test"
    assert all(query.neighbours[0].picture != query.picture for query in answer.queries)
