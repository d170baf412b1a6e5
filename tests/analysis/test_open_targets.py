"""Targets of an analysis: runs, snapshots, weights files, zoo models with overrides, modules; and their images."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from reslab.analysis.open_targets import HE2016_ORDERS, open_targets, parse_target, target_from_module
from reslab.data.adapters import as_dataset
from reslab.data.registry import open_dataset
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.training.run import Run
from reslab.training.train import train

TINY = "resnet20_cifar:depths=1,1,1:image_size=8,8"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the digits with snapshots of steps 0, 4 and 8."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    model = create_model("resnet20_cifar", depths=(1, 1, 1), image_size=(8, 8), in_channels=1)
    assert isinstance(model, ResidualNetwork)
    return train(model.arch, "digits", epochs=0.4, seed=5, batch_size=64, output=path, snapshot_every="4 steps")


def test_a_name_with_axes_is_a_fresh_network_of_the_digits() -> None:
    [target] = open_targets([f"{TINY}:merge=none"], seed=3)
    assert isinstance(target.model, ResidualNetwork)
    assert (target.model.arch.merge, target.model.arch.depths) == ("none", (1, 1, 1))
    assert not target.model.training
    assert target.images.shape == (128, 3, 8, 8)  # gray images repeated to the network's channels
    assert target.images[:, :1].equal(target.images[:, 1:2])
    assert target.data is not None
    assert target.data.name == "digits"
    assert len(set(target.labels.tolist())) == 10


def test_images_get_the_size_of_a_fresh_network_and_its_head_the_classes_of_the_data() -> None:
    [target] = open_targets(["book_resdeep:depths=2"], num_images=4)
    assert target.images.shape == (4, 3, 32, 32)
    assert target.model(target.images).shape == (4, 10)


@pytest.mark.parametrize(("task", "num_outputs"), [("regression", 1), ("multi-label", 2)])
def test_a_fresh_network_has_an_output_for_each_column_of_the_labels(task: str, num_outputs: int) -> None:
    """With ten outputs, torch's loss would repeat a single target for each of them."""
    labels = (torch.arange(24).view(-1, 1) % torch.arange(2, 2 + num_outputs)).float().clamp(max=1)
    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8)
    data = as_dataset((images, labels), (images, labels), task=task)
    [target] = open_targets([TINY], data=data, num_images=8)
    assert target.model(target.images).shape == target.labels.shape == (8, num_outputs)
    loss = functional.mse_loss if task == "regression" else functional.binary_cross_entropy_with_logits
    mean, std = (getattr(target.task, "mean", 0.0), getattr(target.task, "std", 1.0))
    expected = loss(target.model(target.images), (target.labels - torch.tensor(mean)) / torch.tensor(std))
    torch.testing.assert_close(target.batch_loss(target.model, target.images, target.labels), expected)


def test_random_targets_of_a_regression_are_in_its_unit(tmp_path: Path) -> None:
    network = create_model("resnet20_cifar", depths=(1, 1, 1), image_size=(8, 8), num_classes=1)
    network.set_metadata(classes=("year",), task={"name": "regression", "mean": [1990.0], "std": [10.0]})
    save_weights(tmp_path / "years.safetensors", network)
    [target] = open_targets([str(tmp_path / "years.safetensors")], data="random", num_images=200)
    assert 1988 < float(target.labels.mean()) < 1992
    assert 9 < float(target.labels.std()) < 11


def test_the_seed_determines_network_and_images() -> None:
    [one], [two], [other] = (open_targets([TINY], num_images=4, seed=seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert one.images.equal(two.images)
    assert not one.images.equal(other.images)


def test_random_images_need_no_data() -> None:
    [target] = open_targets([TINY], data="random", num_images=6)
    assert target.data is None
    assert target.images.shape == (6, 3, 8, 8)


def test_a_run_has_its_own_images_and_weights(run: Run) -> None:
    [target] = open_targets([str(run.path)], num_images=16)
    data = open_dataset("digits")
    assert target.classes == data.classes
    raw = data.split("test").images.float() / 255  # type: ignore[attr-defined]
    mean, std = data.preprocess.mean[0], data.preprocess.std[0]
    shown = (raw - mean) / std
    assert all(any(torch.allclose(one, other, atol=1e-5) for other in shown) for one in target.images)
    assert (target.step, target.run is not None) == (None, True)


def test_each_snapshot_is_a_target(run: Run) -> None:
    steps = [step for step, _ in run.snapshots()]
    result = open_targets([str(run.path)], weights="all", num_images=4)
    assert [target.step for target in result] == steps
    assert [target.name for target in result] == [f"{run.path}@{step}" for step in steps]
    [start], [begun] = open_targets([f"{run.path}@0"], num_images=4), open_targets([str(run.path)], weights="init")
    weights = [target.model.get_submodule("conv1").weight for target in (result[0], start, begun, result[-1])]
    assert weights[0].equal(weights[1])  # type: ignore[operator, arg-type]
    assert weights[0].equal(weights[2])  # type: ignore[operator, arg-type]
    assert not weights[0].equal(weights[3])  # type: ignore[operator, arg-type]


def test_without_snapshots_the_start_follows_from_the_seed(run: Run, tmp_path: Path) -> None:
    arch = run.arch
    assert arch is not None
    bare = train(arch, "digits", epochs=0.1, seed=5, batch_size=64, output=tmp_path / "bare")
    [start], [kept] = open_targets([str(bare.path)], weights="init"), open_targets([f"{run.path}@0"])
    assert all(a.equal(b) for a, b in zip(start.model.parameters(), kept.model.parameters(), strict=True))


def test_weights_in_a_run_s_folder_know_their_data(run: Run) -> None:
    [target] = open_targets([str(run.weights_path)], num_images=4)
    assert target.run is not None
    assert target.images.shape[1] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"names": ["nowhere/run"]}, "unknown run"),
        ({"names": ["RUN@5"]}, "@4"),
        ({"names": ["RUN"], "weights": "wights"}, "weights"),
        ({"names": ["RUN"], "arch_overrides": {"merge": "none"}}, "models of the zoo"),
        ({"names": [TINY], "weights": "390"}, "only with runs"),
        ({"names": ["timm/resnet18"], "weights": "390"}, "only with runs"),
        ({"names": ["torchvision/resnet18"], "arch_overrides": {"merge": "none"}}, "models of the zoo"),
        ({"names": [TINY], "num_images": 1}, "at least 2 images"),
        ({"names": [f"{TINY}:ordr=original"]}, "order"),
        ({"names": []}, "at least one run or network"),
    ],
)
def test_errors_name_the_next_step(run: Run, text: dict[str, object], expected: str) -> None:
    names = [str(name).replace("RUN", str(run.path)) for name in text.pop("names")]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=expected):
        open_targets(names, **text)  # type: ignore[arg-type]


def test_images_too_small_for_a_network_are_an_error() -> None:
    model = create_model("resnet18", num_classes=4)
    target = target_from_module(model, torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at least 32x32"):
        target.model(target.images)
    with pytest.raises(ValueError, match="images \\(N, C, H, W\\)"):
        target_from_module(model, torch.zeros(3, 16, 16), torch.tensor([0]))


def test_order_star_opens_one_network_per_order() -> None:
    result = parse_target("resnet20_cifar:order=*")
    assert tuple(spec.arch_overrides["order"] for spec in result) == HE2016_ORDERS


def test_wrappers_are_removed() -> None:
    model = create_model("resnet20_cifar", depths=(1, 1, 1))
    images, labels = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    assert target_from_module(nn.DataParallel(model), images, labels).model is model
    assert target_from_module(torch.compile(model), images, labels).model is model  # type: ignore[arg-type]
    assert not model.training


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (torch.zeros(2, 3, 8, 8), torch.tensor([0, 1], dtype=torch.int32), "labels in torch.int64"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), "images in floating point"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), "N at least 1"),
    ],
)
def test_inputs_of_other_types_are_an_error(images: torch.Tensor, labels: torch.Tensor, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        target_from_module(create_model("resnet20_cifar"), images, labels)


def test_third_party_networks_by_name() -> None:
    [first] = open_targets(["torchvision/resnet18"], num_images=2)
    [again] = open_targets(["torchvision/resnet18"], num_images=2)
    assert first.images.shape == (2, 3, 224, 224)
    assert torch.equal(first.model.conv1.weight, again.model.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert not first.model.training


def test_a_network_of_another_task_has_its_targets(tmp_path: Path) -> None:
    network = create_model("resnet20_cifar", num_classes=3, depths=(1, 1, 1))
    network.set_metadata(task={"name": "regression", "mean": [0.0] * 3, "std": [1.0] * 3})
    save_weights(tmp_path / "model.safetensors", network)
    [target] = open_targets([str(tmp_path / "model.safetensors")], data="random", num_images=5)
    assert (target.task.spec.name, target.labels.shape) == ("regression", (5, 3))


def test_a_zoo_network_for_boxes_takes_data_with_boxes() -> None:
    name = "retinanet_resnet18_fpn_320:depths=1,1,1,1:min_size=64:max_size=64"
    [target] = open_targets([name], data="drawn-shapes", num_images=3)
    assert (target.task.spec.name, target.classes) == ("detection", ("disk", "square", "triangle"))
    assert float(target.images.min()) >= 0
    with pytest.raises(ValueError, match=r"images for detection; got: none; --data NAME"):
        open_targets([name])
    with pytest.raises(ValueError, match=r"labels for the task detection in digits"):
        open_targets([name], data="digits")
    with pytest.raises(ValueError, match=r"data with targets of whole images for resnet20_cifar"):
        open_targets([TINY], data="drawn-shapes")
