"""Losses against torch's, torchvision's and timm's, and against their formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from reslab.spec.loss import LOSSES, parse_loss
from reslab.training.losses import BinaryFocal, Loss, build_loss, class_weights, dense_targets

CLASSES = ("a", "b", "c", "d", "e")
SENTENCES = ["cross-entropy", "bce", "bce(sum)", "bce(0.2)", "bce(0.2,sum)", "focal", "focal(0.5)", "focal-binary(1.5)"]


def sample(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (12, 5), labels (12,), and shares of classes (12, 5) as mixing makes them."""
    generator = torch.Generator().manual_seed(0)
    outputs = 2 * torch.randn(12, 5, generator=generator, dtype=dtype)
    labels = torch.randint(0, 5, (12,), generator=generator)
    share = torch.rand(12, 1, generator=generator, dtype=dtype)
    mixed = share * dense_targets(outputs, labels) + (1 - share) * dense_targets(outputs, labels.flip(0))
    return outputs, labels, mixed


def assert_alike(ours: Loss, theirs: Loss, outputs: Tensor, targets: Tensor, other: Tensor | None = None) -> None:
    """The same number and the same gradient."""
    x, y = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    first, second = ours(x, targets), theirs(y, targets if other is None else other)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
    first.backward()
    second.backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    outputs, labels, mixed = sample()
    for targets in (labels, mixed):
        assert_alike(
            build_loss("cross-entropy", smoothing),
            lambda x, y: functional.cross_entropy(x, y, label_smoothing=smoothing),
            outputs,
            targets,
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy_is_torchs_divided_by_the_samples(smoothing: float) -> None:
    outputs, labels, mixed = sample()
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    for targets in (labels, mixed):
        assert_alike(
            build_loss("cross-entropy", smoothing, weights),
            lambda x, y: functional.cross_entropy(x, y, weights, reduction="sum", label_smoothing=smoothing) / len(x),
            outputs,
            targets,
        )


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("how", ["mean", "sum"])
def test_binary_cross_entropy_is_timms(threshold: float | None, smoothing: float, how: str) -> None:
    timm = pytest.importorskip("timm.loss")
    outputs, labels, mixed = sample()
    words = f"bce({'' if threshold is None else f'{threshold},'}{how})"
    theirs = timm.BinaryCrossEntropy(smoothing, threshold, sum_classes=how == "sum")
    assert_alike(build_loss(words, smoothing), theirs, outputs, labels)
    softened = mixed * (1 - smoothing) + smoothing / 5  # timm smooths where it mixes
    assert_alike(build_loss(words, smoothing), theirs, outputs, mixed, softened)


def test_binary_cross_entropy_weighs_the_classes_as_timms() -> None:
    timm = pytest.importorskip("timm.loss")
    outputs, labels, _ = sample()
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    assert_alike(build_loss("bce", 0.1, weights), timm.BinaryCrossEntropy(0.1, weight=weights), outputs, labels)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.9), (0.0, 0.5)])
def test_binary_focal_is_torchvisions(gamma: float, alpha: float) -> None:
    outputs, labels, mixed = sample()
    for targets in (labels, mixed):
        shares = dense_targets(outputs, targets)
        assert_alike(
            build_loss(f"focal-binary({gamma},{alpha})"),
            lambda x, y: sigmoid_focal_loss(x, y, alpha, gamma, reduction="sum") / len(x),
            outputs,
            targets,
            shares,
        )


def test_focal_over_a_softmax_is_its_formula_and_cross_entropy_at_gamma_0() -> None:
    outputs, labels, mixed = sample()
    p = outputs.softmax(1)
    expected = torch.stack([-((1 - p[i, y]) ** 2) * p[i, y].log() for i, y in enumerate(labels.tolist())]).mean()
    torch.testing.assert_close(build_loss("focal")(outputs, labels), expected, rtol=1e-12, atol=0)
    for targets in (labels, mixed):
        assert_alike(build_loss("focal(0)", 0.1), build_loss("cross-entropy", 0.1), outputs, targets)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    assert_alike(build_loss("focal(0)", 0.1, weights), build_loss("cross-entropy", 0.1, weights), outputs, mixed)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_mean_over_parts_is_the_whole(sentence: str) -> None:
    outputs, labels, mixed = sample()
    loss = build_loss(sentence, 0.1, torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0]))
    for targets in (labels, mixed):
        parts = [loss(outputs[i : i + 3], targets[i : i + 3]) for i in range(0, 12, 3)]
        torch.testing.assert_close(torch.stack(parts).mean(), loss(outputs, targets), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_hard_shares_are_labels_and_low_precision_is_widened(sentence: str) -> None:
    outputs, labels, _ = sample()
    loss = build_loss(sentence)
    torch.testing.assert_close(loss(outputs, labels), loss(outputs, dense_targets(outputs, labels)), rtol=1e-14, atol=0)
    narrow = loss(outputs.bfloat16(), labels)
    assert narrow.dtype == torch.float32
    assert narrow == loss(outputs.bfloat16().float(), labels)


def test_targets_of_another_shape_are_refused() -> None:
    outputs, labels, mixed = sample()
    for wrong in (labels[:3], mixed[:, :3], mixed.long()):
        with pytest.raises(ValueError, match=r"targets of shape \(12,\)"):
            BinaryFocal()(outputs, wrong)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])
    found = class_weights("balanced", labels, CLASSES)
    assert found is not None
    expected = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-15, atol=0)
    assert class_weights("", labels, CLASSES) is None
    numbers = class_weights("1,2,3,4,0.5", labels, CLASSES)
    assert numbers is not None
    assert numbers.tolist() == [1, 2, 3, 4, 0.5]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("1,2", "5 numbers"),
        ("even", "'balanced' or numbers"),
        ("1,-1,1,1,1", "at least 0"),
        ("balanced", "none of 'e'"),
    ],
)
def test_weights_that_mean_nothing_are_refused(how: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        class_weights(how, torch.tensor([0, 1, 2, 3]), CLASSES)


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("cross-entrpy", "nearest: 'cross-entropy'"),
        ("", "one loss"),
        ("bce focal", "one loss"),
        ("bce(1.5)", "threshold of bce from 0 to 1"),
        ("bce(0.1,0.2)", r"bce\(0.2\)"),
        ("bce(total)", "unknown word of bce"),
        ("bce2", r"bce\(0.2\)"),
        ("cross-entropy(0.1)", "cross-entropy"),
        ("distill(0.5,4)", "one loss"),
        ("bce distill", "teacher's share"),
        ("bce distill(2)", "alpha of distill from 0 to 1"),
        ("bce distill(0.5,0)", "temperature of distill"),
    ],
)
def test_sentences_that_mean_nothing_are_refused(sentence: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_loss(sentence)


def test_every_example_of_the_table_can_be_built() -> None:
    outputs, labels, _ = sample()
    for name, word in LOSSES.items():
        plan: Any = parse_loss(word.example)
        assert plan.name == name
        assert build_loss(word.example)(outputs, labels).isfinite()
