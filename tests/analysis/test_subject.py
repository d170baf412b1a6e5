"""What a question is put to: runs, snapshots, files, names with axes, modules; and the pictures that come with them."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from reslab.analysis.blocks import find_blocks, get_block, record_block_calls
from reslab.analysis.subject import HE2016_ORDERS, open_targets, parse_target, target_from_module
from reslab.data.registry import open_dataset
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
    [subject] = open_targets([f"{TINY}:merge=none"], seed=3)
    assert isinstance(subject.model, ResidualNetwork)
    assert (subject.model.arch.merge, subject.model.arch.depths) == ("none", (1, 1, 1))
    assert not subject.model.training
    assert subject.images.shape == (128, 3, 8, 8)  # grey pictures repeated to the network's channels
    assert subject.images[:, :1].equal(subject.images[:, 1:2])
    assert subject.data is not None
    assert subject.data.name == "digits"
    assert len(set(subject.labels.tolist())) == 10


def test_pictures_are_brought_to_a_fresh_network_s_size_and_its_classes_to_the_data_s() -> None:
    [subject] = open_targets(["book_resdeep:depths=2"], num_images=4)
    assert subject.images.shape == (4, 3, 32, 32)
    assert subject.model(subject.images).shape == (4, 10)


def test_the_same_seed_is_the_same_network_and_pictures_and_another_is_not() -> None:
    [one], [two], [other] = (open_targets([TINY], num_images=4, seed=seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert one.images.equal(two.images)
    assert not one.images.equal(other.images)


def test_random_pictures_need_no_data() -> None:
    [subject] = open_targets([TINY], data="random", num_images=6)
    assert subject.data is None
    assert subject.images.shape == (6, 3, 8, 8)


def test_a_run_has_its_own_pictures_and_weights(run: Run) -> None:
    [subject] = open_targets([str(run.path)], num_images=16)
    data = open_dataset("digits")
    assert subject.classes == data.classes
    raw = data.split("test").images.float() / 255  # type: ignore[attr-defined]
    mean, std = data.preprocess.mean[0], data.preprocess.std[0]
    shown = (raw - mean) / std
    assert all(any(torch.allclose(one, other, atol=1e-5) for other in shown) for one in subject.images)
    assert (subject.step, subject.run is not None) == (None, True)


def test_snapshots_are_subjects_of_their_own(run: Run) -> None:
    steps = [step for step, _ in run.snapshots()]
    found = open_targets([str(run.path)], weights="all", num_images=4)
    assert [subject.step for subject in found] == steps
    assert [subject.name for subject in found] == [f"{run.path}@{step}" for step in steps]
    [start], [begun] = open_targets([f"{run.path}@0"], num_images=4), open_targets([str(run.path)], weights="init")
    weights = [subject.model.get_submodule("conv1").weight for subject in (found[0], start, begun, found[-1])]
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
    [subject] = open_targets([str(run.weights_path)], num_images=4)
    assert subject.run is not None
    assert subject.images.shape[1] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"places": ["nowhere/run"]}, "unknown run"),
        ({"places": ["RUN@5"]}, "@4"),
        ({"places": ["RUN"], "weights": "wights"}, "weights"),
        ({"places": ["RUN"], "arch_overrides": {"merge": "none"}}, "networks of the zoo"),
        ({"places": [TINY], "weights": "390"}, "only with runs"),
        ({"places": ["timm/resnet18"], "weights": "390"}, "only with runs"),
        ({"places": ["torchvision/resnet18"], "arch_overrides": {"merge": "none"}}, "networks of the zoo"),
        ({"places": [TINY], "num_images": 1}, "at least 2 images"),
        ({"places": [f"{TINY}:ordr=original"]}, "order"),
        ({"places": []}, "at least one run or network"),
    ],
)
def test_mistakes_name_the_way_out(run: Run, words: dict[str, object], said: str) -> None:
    places = [str(place).replace("RUN", str(run.path)) for place in words.pop("places")]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=said):
        open_targets(places, **words)  # type: ignore[arg-type]


def test_pictures_too_small_for_a_network_are_refused_by_it() -> None:
    model = create_model("resnet18", num_classes=4)
    subject = target_from_module(model, torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at least 32x32"):
        subject.model(subject.images)
    with pytest.raises(ValueError, match="images \\(N, C, H, W\\)"):
        target_from_module(model, torch.zeros(3, 16, 16), torch.tensor([0]))


def test_the_star_is_five_orders() -> None:
    found = parse_target("resnet20_cifar:order=*")
    assert tuple(place.arch_overrides["order"] for place in found) == HE2016_ORDERS


def test_units_of_foreign_networks() -> None:
    names = [name for name, _ in find_blocks(torchvision.models.resnet18())]
    assert names == [f"layer{stage}.{unit}" for stage in range(1, 5) for unit in range(2)]
    chain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    assert [name for name, _ in find_blocks(chain)] == ["0", "2"]
    mobile = [name for name, _ in find_blocks(torchvision.models.mobilenet_v2())]
    assert "features.1" in mobile
    assert "features.17" in mobile
    assert [name for name, _ in find_blocks(create_model("book_net"))] == ["conv1.0", "conv1.3"]
    with pytest.raises(ValueError, match=r"nn\.Sequential"):
        find_blocks(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"layer1\.1"):
        get_block(create_model("resnet20_cifar"), "layer1.11")


def test_a_shared_unit_runs_several_times_and_the_hooks_go() -> None:
    model = create_model("book_resdeep", depths=(3,))
    with record_block_calls(model) as runs:
        model(torch.zeros(2, 3, 32, 32))
    assert [run.label for run in runs] == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)"]
    assert not any(unit._forward_hooks for _, unit in find_blocks(model))


def test_what_is_wrapped_is_asked_itself() -> None:
    model = create_model("resnet20_cifar", depths=(1, 1, 1))
    images, labels = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    assert target_from_module(nn.DataParallel(model), images, labels).model is model
    assert target_from_module(torch.compile(model), images, labels).model is model  # type: ignore[arg-type]
    assert not model.training


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.zeros(2, 3, 8, 8), torch.tensor([0, 1], dtype=torch.int32), "labels in torch.int64"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), "images in floating point"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), "N at least 1"),
    ],
)
def test_pictures_of_another_kind_are_refused(images: torch.Tensor, labels: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        target_from_module(create_model("resnet20_cifar"), images, labels)


def test_networks_of_others_by_name() -> None:
    [first] = open_targets(["torchvision/resnet18"], num_images=2)
    [again] = open_targets(["torchvision/resnet18"], num_images=2)
    assert first.images.shape == (2, 3, 224, 224)
    assert torch.equal(first.model.conv1.weight, again.model.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert not first.model.training
