"""Every recipe takes real steps on images of the right shape, with a network of its kind made narrow."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetSplits
from reslab.data.image_datasets import TensorImageDataset
from reslab.nn.factory import create_model
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import parse_arch_overrides
from reslab.spec.recipes import RECIPES
from reslab.spec.recipes.dense import DETECTION, SEGMENTATION
from reslab.spec.zoo import ARCHS
from reslab.training.run import Run
from reslab.training.train import train

# Channels, side and classes of the data a recipe is for; `photos` are smaller than ImageNet's, larger than a crop.
SHAPES = {
    "cifar10": (3, 32, 10),
    "cifar2": (3, 32, 2),
    "fashion-mnist": (1, 28, 10),
    "imagenet": (3, 240, 5),
    "digits": (1, 8, 10),
}
FOR = {"digits": "digits", "fashion": "fashion-mnist", "cifar": "cifar10", "photos": "imagenet"}
FOR |= {"photos-scratch": "imagenet", "finetune": "imagenet"}
FOR_MASKS = {recipe.name for recipe in SEGMENTATION}  # which tasks/test_segmentation.py runs
FOR_BOXES = {recipe.name for recipe in DETECTION}  # which tasks/test_detection_recipes.py runs
BATCH, NUM_STEPS = 4, 3


def data_for(name: str) -> DatasetSplits:
    """Random images of the shape of a data set: four batches to train on and one to be evaluated on."""
    channels, side, classes = SHAPES[name]
    draw = torch.Generator().manual_seed(0)
    parts = []
    for count in (4 * BATCH, BATCH):
        pixels = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=draw)
        parts.append((pixels, torch.arange(count) % classes))
    held_out = "val" if name == "imagenet" else "test"  # as the data sets themselves have it
    return as_dataset(parts[0], **{held_out: parts[1]}, classes=[str(label) for label in range(classes)], name=name)


def narrow(model: str) -> dict[str, str]:
    """Axes that make a network of the zoo small: a unit a stage, 16 channels from the first on.

    Fewer are not for these tests: torch's 1x1 convolutions of stride 2 over 4 or 8 channels, channels last, write
    beyond their memory on some processors (torch 2.14.1).
    """
    arch = ARCHS[model]
    if not arch.depths or model == "book_res":
        return {}
    if len(arch.depths) == 1:
        return {"model.depths": "2"}
    stages = len(arch.depths)
    stem = "conv3(16) norm act" if arch.image_size[0] < 64 else "conv7/2(16) norm act maxpool3/2"
    axes = {"depths": "1," * stages, "widths": ",".join(str(16 * 2**stage) for stage in range(stages)), "stem": stem}
    return {f"model.{axis}": value for axis, value in axes.items()}


def dry_run(name: str, output: Path, **more: Any) -> Run:
    recipe = RECIPES[name]
    where = recipe.data or FOR[name]
    model = recipe.model or ("resnet18" if where == "imagenet" else "resnet20_cifar")
    settings: dict[str, Any] = {
        "batch_size": BATCH,
        "duration": f"{NUM_STEPS} steps",
        "compile": "false",
        **narrow(model),
    }
    return train(
        None if recipe.model else model,
        data_for(where),
        name,
        overrides=settings,
        output=output,
        seed=1,
        device="cpu",
        on_log=lambda line: None,
        **more,
    )


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"finetune"} - FOR_MASKS - FOR_BOXES))
def test_a_recipe_takes_steps(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    run = dry_run(name, tmp_path / "run", **({} if not recipe.pretrained else {"pretrained": False}))
    assert run.result is not None
    assert run.result["steps"] == NUM_STEPS
    losses = [line["loss"] for line in run.log.records() if line["kind"] in ("train", "eval")]
    assert len(losses) >= 2
    assert all(math.isfinite(loss) for loss in losses)
    assert math.isfinite(run.result["loss"])
    assert run.recipe.name == name
    assert run.recipe.loss == recipe.loss
    assert run.recipe.arch == recipe.arch
    assert run.recipe.optimizer.lr == pytest.approx(recipe.optimizer.lr * BATCH / recipe.batch_size)


@pytest.mark.parametrize("name", ["rsb-a1", "rsb-a2", "stochastic-depth", "goyal2017", "bag-of-tricks"])
def test_a_recipe_sets_axes_of_the_network(name: str, tmp_path: Path) -> None:
    arch = dry_run(name, tmp_path / "run").arch
    assert arch is not None
    for axis, value in parse_arch_overrides(RECIPES[name].arch).items():
        assert str(getattr(arch, axis)) in (value, f"{value}.0")


def test_an_axis_that_was_reported_is_kept(tmp_path: Path) -> None:
    data, small = data_for("imagenet"), {"batch_size": BATCH, "duration": "1 step", **narrow("resnet50")}
    overrides_given = {"model.merge": "add", **small}
    run = train("resnet50", data, "rsb-a2", overrides=overrides_given, output=tmp_path / "a", on_log=lambda line: None)
    assert run.arch is not None
    assert run.arch.merge == "add"
    gated = {"model.merge": "gate(-6)", "arch": "", **small}
    run = train("resnet50", data, "rsb-a2", overrides=gated, output=tmp_path / "b", on_log=lambda line: None)
    assert run.arch is not None
    assert run.arch.merge == "gate(-6)"


def test_merge_of_recipe_combines_with_merge_of_model(tmp_path: Path) -> None:
    small = {"batch_size": BATCH, "duration": "1 step", **narrow("resnet20_cifar")}
    data = data_for("cifar10")
    run = train("rezero56_cifar", data, "stochastic-depth", overrides=small, output=tmp_path / "a")
    assert run.arch is not None
    assert run.arch.merge == "stochastic-depth(0.5) rezero add"
    with pytest.raises(ValueError, match=r"a network with shortcuts.*model\.merge=none"):
        train("plain20_cifar", data, "stochastic-depth", overrides=small, output=tmp_path / "b")


def test_what_a_recipe_sets_is_reported_and_recorded(tmp_path: Path) -> None:
    run = dry_run("d2l-fashion", tmp_path / "run")
    kept = run.metadata["data"]["preprocess"]
    assert kept == {
        "channels": 1,
        "transform": "resize(96)",
        "mean": [0.0],
        "std": [1.0],
        "mean_image": "",
        "channel_order": "rgb",
    }
    assert run.arch is not None
    assert run.arch.image_size == (96, 96)
    assert (run.arch.shortcut, run.arch.init) == ("conv1x1", "xavier")
    run = dry_run("stochastic-depth", tmp_path / "other")
    assert any("stochastic-depth(0.5)" in note for note in run.metadata["messages"])


def test_a_validation_split_of_the_recipe_s(tmp_path: Path) -> None:
    data = data_for("cifar10")
    train_split, settings = data.split("train"), {"batch_size": 2, "duration": "1 step", **narrow("resnet110_cifar")}
    assert isinstance(train_split, TensorImageDataset)
    pixels = (torch.cat([train_split.images] * 10), torch.cat([train_split.labels] * 10))
    run = train(None, pixels, "stochastic-depth", overrides=settings, output=tmp_path / "a", on_log=lambda line: None)
    assert run.metadata["val_fraction"] == 0.1
    assert run.metadata["data"]["num_images"]["val"] > 0
    settings["val_fraction"] = 0.0
    run = train(None, pixels, "stochastic-depth", overrides=settings, output=tmp_path / "b", on_log=lambda line: None)
    assert "val" not in run.metadata["data"]["num_images"]


def test_fine_tuning_opens_the_network_part_by_part(tmp_path: Path) -> None:
    axes = {key.removeprefix("model."): value for key, value in narrow("resnet18").items()}
    body = create_model("resnet18", num_classes=7, **axes)
    assert isinstance(body, ResidualNetwork)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    unfreeze = "head: 0 epochs,last-stage: 1 steps,all: 2 steps"
    moved: dict[int, set[str]] = {}

    def probe(step: int, model: torch.nn.Module) -> dict[str, Any]:
        moved[step] = {name for name, value in model.state_dict().items() if not torch.equal(value, probe.last[name])}
        probe.last = {name: value.clone() for name, value in model.state_dict().items()}
        return {}

    probe.last = {**before, "fc.weight": torch.zeros(5, 128), "fc.bias": torch.zeros(5)}
    settings = {
        "batch_size": BATCH,
        "duration": "3 steps",
        "unfreeze": unfreeze,
        "precision": "float32",
        **narrow("resnet18"),
    }
    settings |= {"schedule.name": "constant", "schedule.warmup": "0 steps"}
    run = train(
        "resnet18",
        data_for("imagenet"),
        "finetune",
        pretrained=before,
        overrides=settings,
        output=tmp_path / "run",
        on_log=lambda line: None,
        on_step_end=probe,
        hook_every_steps=1,
    )
    assert run.result is not None
    assert moved[1] == {"fc.weight", "fc.bias"}  # and no statistic of a frozen BatchNorm
    assert "layer4.0.bn1.running_mean" in moved[2]
    assert all(name.startswith(("fc.", "layer4.")) for name in moved[2])
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight"} <= moved[3]


def test_fine_tuning_without_published_weights_is_refused(tmp_path: Path) -> None:
    settings = {"batch_size": BATCH, "duration": "1 step"}
    with pytest.raises(ValueError, match="weights"):
        train("resnet20_cifar", data_for("cifar10"), "finetune", overrides=settings, output=tmp_path / "run")
