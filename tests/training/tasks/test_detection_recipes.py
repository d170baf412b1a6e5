"""The recipes for detection: steps of each, and the learning rates of torchvision's reference training."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR, MultiStepLR

from reslab.spec.dense import DetectionArch
from reslab.spec.recipe import Recipe
from reslab.spec.recipes import RECIPES
from reslab.spec.recipes.dense import DETECTION
from reslab.training.optim.lr_schedule import compute_lr
from reslab.training.train import train

sys.path.insert(0, str(Path(__file__).parents[1]))
from detection_runs import TINY, write_voc

STEPS_PER_EPOCH = 1500


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.mark.parametrize("recipe", DETECTION, ids=lambda recipe: recipe.name)
def test_a_recipe_takes_steps(recipe: Recipe, voc: Path, tmp_path: Path) -> None:
    """With the transforms at a small size and a network of its kind made small, which the recipe's axes change."""
    axes = {"model.roi_batch_size": "8", "model.proposals": "20,10"}
    run = train(
        recipe.model or "fasterrcnn_resnet18_fpn_320", voc, recipe.name, output=tmp_path / "run", seed=1,
        device="cpu", workers=0, on_log=lambda line: None,
        overrides={
            **TINY, "model.depths": "1,1,1,1", "model.widths": "4,8,8,8", "batch_size": 2, "duration": "2 steps",
            "train_transform": recipe.train_transform.replace("1024", "48"), **axes,
        },
    )  # fmt: skip
    assert run.result is not None
    assert run.result["steps"] == 2
    losses = [record["loss"] for record in run.log.records() if record["kind"] == "train"]
    assert losses
    assert all(map(math.isfinite, losses))
    assert (run.recipe.name, run.recipe.loss, run.recipe.arch) == (recipe.name, "detector", recipe.arch)
    assert run.recipe.optimizer.lr == pytest.approx(recipe.optimizer.lr * 2 / recipe.batch_size)


def test_large_scale_jitter_changes_the_size_of_the_network(voc: Path, tmp_path: Path) -> None:
    small = {key: value for key, value in TINY.items() if "size" not in key}
    stem = {"model.stem": "conv3/4(2) norm act maxpool3/2", "model.widths": "2,2,2,2", "model.depths": "1,1,1,1"}
    run = train(
        "fasterrcnn_resnet18_fpn_320", voc, "lsj", output=tmp_path / "run", device="cpu", workers=0,
        on_log=lambda line: None,
        overrides={**small, **stem, "batch_size": 2, "duration": "1 step", "train_transform": "flip",
                   "model.pyramid_channels": 2, "model.proposals": "4,2", "model.roi_batch_size": 4},
    )  # fmt: skip
    assert isinstance(run.arch, DetectionArch)
    assert (run.arch.min_size, run.arch.max_size) == (1024, 1024)


@pytest.mark.parametrize(
    ("name", "lr", "milestones", "num_epochs"),
    [
        ("torchvision-detection", 0.02, (16, 22), 26),
        ("torchvision-retinanet", 0.01, (16, 22), 26),
        ("lsj", 0.1, (352, 384), 400),
    ],
)
def test_the_learning_rates_are_those_of_torchvision(
    name: str, lr: float, milestones: tuple[int, ...], num_epochs: int
) -> None:
    """Its train.py warms up over the first 1,000 steps from a thousandth, and steps `MultiStepLR` once an epoch."""
    recipe, total = RECIPES[name], num_epochs * STEPS_PER_EPOCH
    weights = [torch.nn.Parameter(torch.zeros(1))]
    by_epoch, by_step = torch.optim.SGD(weights, lr=lr), torch.optim.SGD(weights, lr=lr)
    scheduler = MultiStepLR(by_epoch, list(milestones), gamma=0.1)
    warmup = LinearLR(by_step, start_factor=1e-3, total_iters=1000)
    for step in range(1100):
        result = compute_lr(recipe, step, total, STEPS_PER_EPOCH)
        assert result == pytest.approx(by_step.param_groups[0]["lr"], rel=1e-6), step
        by_step.step()
        warmup.step()
    for epoch in range(num_epochs):
        for step in (epoch * STEPS_PER_EPOCH + 1400, (epoch + 1) * STEPS_PER_EPOCH - 1):
            assert compute_lr(recipe, step, total, STEPS_PER_EPOCH) == pytest.approx(by_epoch.param_groups[0]["lr"])
        by_epoch.step()
        scheduler.step()


def test_the_rate_of_he_2015_falls_after_240_thousand_steps() -> None:
    recipe = RECIPES["he2015-detection"]
    rates = [compute_lr(recipe, step, 320_000, 10_000) for step in (0, 239_999, 240_000, 319_999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
