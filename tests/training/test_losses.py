"""Losses against torch's, torchvision's and timm's, and against their formulas.

Distillation against its formula and timm's; teachers as runs keep them.

The size of the weights in the loss, and the weight decay that equals it under plain SGD.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from reslab.data.registry import open_dataset
from reslab.nn.checkpoints.safetensors_io import read_tensors, save_weights
from reslab.nn.factory import create_model, load_network
from reslab.nn.network import ResidualNetwork
from reslab.spec.loss import LOSSES, parse_loss
from reslab.spec.optim import OptimizerConfig
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import TargetKind
from reslab.training.loop import TrainStep
from reslab.training.losses import (
    BinaryFocalLoss,
    DistillationLoss,
    LossFn,
    RenormalizedModel,
    build_loss,
    compute_class_weights,
    dense_targets,
    prepare_teacher,
    weight_penalty,
)
from reslab.training.optim.factory import build_optimizer
from reslab.training.train import train

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


def assert_alike(ours: LossFn, theirs: LossFn, outputs: Tensor, targets: Tensor, other: Tensor | None = None) -> None:
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
            BinaryFocalLoss()(outputs, wrong)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])
    result = compute_class_weights("balanced", labels, CLASSES)
    assert result is not None
    expected = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    torch.testing.assert_close(result, torch.as_tensor(expected), rtol=1e-15, atol=0)
    assert compute_class_weights("", labels, CLASSES) is None
    numbers = compute_class_weights("1,2,3,4,0.5", labels, CLASSES)
    assert numbers is not None
    assert numbers.tolist() == [1, 2, 3, 4, 0.5]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("1,2", "5 numbers"),
        ("even", "'balanced' or numbers"),
        ("1,-1,1,1,1", "at least 0"),
        ("balanced", "none of 'e'"),
    ],
)
def test_invalid_class_weights_raise(how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_class_weights(how, torch.tensor([0, 1, 2, 3]), CLASSES)


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("cross-entrpy", "nearest: 'cross-entropy'"),
        ("", "one loss"),
        ("bce focal", "one loss"),
        ("bce(1.5)", "threshold of bce from 0 to 1"),
        ("bce(0.1,0.2)", r"bce\(0.2\)"),
        ("bce(total)", "unknown word of bce"),
        ("bce2", r"bce\(0.2\)"),
        ("cross-entropy(0.1)", "cross-entropy"),
    ],
)
def test_invalid_loss_expressions_raise(sentence: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_loss(sentence)


def test_every_example_of_the_table_can_be_built() -> None:
    outputs, labels, _ = sample()
    for name, word in LOSSES.items():
        plan: Any = parse_loss(word.example)
        assert plan.name == name
        loss = build_loss(word.example)
        if word.targets == (TargetKind.BOXES,):
            assert loss({"boxes": torch.tensor(1.5), "classes": torch.tensor(2.0)}, []) == 3.5
            continue
        targets = labels if TargetKind.CLASS in word.targets else torch.zeros_like(outputs)
        assert loss(outputs, targets).isfinite()


SMALL = {"depths": (1, 1, 1), "widths": (4, 8, 16), "stem": "conv3(4) norm act"}


def test_distillation_loss_equals_formula_and_gives_teacher_no_gradient() -> None:
    torch.manual_seed(0)
    teacher = nn.Linear(6, 3, dtype=torch.float64)
    x, z = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y, loss = torch.arange(5) % 3, build_loss("cross-entropy", 0.1)
    result = DistillationLoss(loss, teacher, alpha=0.7, temperature=4.0)(z, y, x)
    soft, taught = (z / 4).softmax(1), (teacher(x) / 4).softmax(1)
    divergence = (taught * (taught / soft).log()).sum(1).mean()
    torch.testing.assert_close(result, 0.3 * loss(z, y) + 0.7 * 16 * divergence, rtol=1e-12, atol=0)
    result.backward()
    assert teacher.weight.grad is None


def test_at_temperature_1_its_gradient_is_that_of_cross_entropy_to_the_teachers_shares() -> None:
    torch.manual_seed(0)
    teacher, x = nn.Linear(6, 3, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    first, second = (torch.ones(5, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    DistillationLoss(build_loss("cross-entropy"), teacher, alpha=1.0)(
        first, torch.zeros(5, dtype=torch.long), x
    ).backward()
    functional.cross_entropy(second, teacher(x).softmax(1).detach()).backward()
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-12, atol=1e-15)


def saved(path: Path, classes: tuple[str, ...], preprocess: Preprocess, channels: int = 1) -> ResidualNetwork:
    torch.manual_seed(1)
    network = create_model("resnet20_cifar", num_classes=len(classes), in_channels=channels, **SMALL)
    assert isinstance(network, ResidualNetwork)
    network.classes, network.preprocess = classes, preprocess
    save_weights(path, network)
    return network.eval()


def test_a_teacher_sees_images_as_it_was_trained_to(tmp_path: Path) -> None:
    data = open_dataset("digits")
    own = replace(data.preprocess, mean=(0.5,), std=(0.25,))
    network = saved(tmp_path / "own.safetensors", data.classes, own)
    teacher = prepare_teacher(load_network(tmp_path / "own.safetensors"), data, "own")
    assert isinstance(teacher, RenormalizedModel)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    pixels = torch.rand(4, 1, 8, 8)
    mean, std = data.preprocess.mean[0], data.preprocess.std[0]
    expected = network((pixels - 0.5) / 0.25)
    torch.testing.assert_close(teacher((pixels - mean) / std), expected, rtol=1e-4, atol=1e-5)
    saved(tmp_path / "same.safetensors", data.classes, data.preprocess)
    assert isinstance(prepare_teacher(load_network(tmp_path / "same.safetensors"), data, "same"), ResidualNetwork)


def test_a_teacher_of_other_classes_or_channels_is_refused(tmp_path: Path) -> None:
    data = open_dataset("digits")
    saved(tmp_path / "classes.safetensors", tuple(reversed(data.classes)), data.preprocess)
    with pytest.raises(ValueError, match="classes in their order"):
        prepare_teacher(load_network(tmp_path / "classes.safetensors"), data, "classes")
    colours = Preprocess(3, "", (0.5,) * 3, (0.5,) * 3)
    saved(tmp_path / "colour.safetensors", data.classes, colours, channels=3)
    with pytest.raises(ValueError, match="a teacher with 1 channels"):
        prepare_teacher(load_network(tmp_path / "colour.safetensors"), data, "colour")


def test_sums_over_every_trained_parameter() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(-2.0)
    assert weight_penalty(model, 0.0, 0.5).item() == 0.5 * 4 * 5
    assert weight_penalty(model, 0.25, 0.0).item() == 0.25 * 2 * 5
    model[0].weight.requires_grad_(False)
    assert weight_penalty(model, 0.25, 0.5).item() == 0.25 * 2 * 3 + 0.5 * 4 * 3


def stepped(stepping: TrainStep, weight_decay: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = create_model("book_batchnorm").double()
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.05, momentum=0.0, weight_decay=weight_decay))
    draw = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(10):
        x = torch.randn((8, 3, 32, 32), generator=draw, dtype=torch.float64)
        stepping.run(model, functional.cross_entropy, optimizer, x, torch.arange(8) % 2)
    return [weight.detach() for weight in model.parameters()]


def test_the_book_s_l2_is_a_weight_decay_of_twice_lambda() -> None:
    penalised, decayed = stepped(TrainStep(l2=0.01), 0.0), stepped(TrainStep(), 0.02)
    torch.testing.assert_close(penalised, decayed, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(penalised[0], stepped(TrainStep(), 0.0)[0], rtol=1e-6)


def test_parts_of_a_batch_are_penalised_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    x, y = torch.randn((6, 1, 2, 2), dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    result = []
    for parts in (1, 4):
        model.zero_grad()
        value, _ = TrainStep(grad_accum_steps=parts, l1=0.1, l2=0.2).backward(model, functional.cross_entropy, x, y)
        result.append((value, [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(result[0], result[1], rtol=1e-12, atol=1e-14)


def test_l2_penalty_equals_weight_decay_without_momentum(tiny: dict[str, Any], tmp_path: Path) -> None:
    plain = {"optimizer.momentum": "0", "optimizer.nesterov": "false", "optimizer.decay_norm_and_bias": "true"}
    # A rate at which rounding does not grow: at 0.1 two such runs part within ten steps.
    plain |= {"optimizer.lr": "0.01", "optimizer.weight_decay": "0", "schedule.name": "constant"}
    base = {**tiny["overrides"], **plain}
    result = []
    for name, message in (("a", {"l2": "0.001"}), ("b", {"optimizer.weight_decay": "0.002"}), ("c", {})):
        run = train(output=tmp_path / name, overrides={**base, **message}, epochs=1, on_log=tiny["on_log"])
        result.append(read_tensors(run.weights_path))
    torch.testing.assert_close(result[0], result[1], rtol=1e-5, atol=2e-6)
    assert max(float((result[0][name] - result[2][name]).abs().max()) for name in result[0]) > 1e-4
