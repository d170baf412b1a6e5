"""Every recipe takes a step for several classes, numbers and masks, or is refused with the reason and a next step."""

from pathlib import Path

import pytest
import torch

from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetSplits
from reslab.runtime.distributed import SINGLE_PROCESS
from reslab.spec.recipes import RECIPES
from reslab.spec.task import TASKS
from reslab.training.options import TrainOptions
from reslab.training.setup import TrainSetup, setup_run

NUM_IMAGES, SIDE, BATCH = 8, 32, 4
CLASSES = ("a", "b", "c")
SMALL = {"depths": "1,1,1", "shortcut": "project"}
NETWORKS = {
    "multi-label": ("resnet20_cifar", SMALL),
    "regression": ("resnet20_cifar", SMALL),
    "segmentation": ("unet_resnet20_cifar", {"backbone.depths": "1,1,1", "decoder_channels": "16"}),
}


def data_for(task: str, channels: int) -> DatasetSplits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (NUM_IMAGES, channels, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    targets = {
        "multi-label": torch.tensor([[i % 2, i // 2 % 2, 1 - i % 2] for i in range(NUM_IMAGES)]).float(),
        "regression": torch.rand(NUM_IMAGES, 3, generator=generator),
        "segmentation": torch.randint(3, (NUM_IMAGES, SIDE, SIDE), generator=generator),
    }[task]
    pair = (images, targets)
    return as_dataset(pair, val=pair, classes=CLASSES, task=task)


def set_up(name: str, task: str, output: Path) -> TrainSetup:
    recipe, (model, axes) = RECIPES[name], NETWORKS[task]
    data = data_for(task, 1 if recipe.data == "fashion-mnist" or name in ("digits", "fashion") else 3)
    settings = {"batch_size": BATCH, "precision": "float32", "image_size": SIDE}
    options = TrainOptions(
        model=model, data=data, recipe=name, recipe_overrides=settings, arch_overrides=axes, pretrained=False, task=task
    )
    return setup_run(options, output, SINGLE_PROCESS, workers=0)


POLICY = r"an image without boxes and masks for .*; compose geometric and color transforms instead"
PIXEL_MEAN = r"a mean of each pixel; got: .* with masks or boxes; set normalize\.per_pixel_mean=false"
REFUSED = {
    **{(name, "segmentation"): POLICY for name in ("rsb-a1", "rsb-a2", "rsb-a3", "torchvision-v2")},
    **{
        (name, "segmentation"): PIXEL_MEAN
        for name in ("he2015-cifar", "he2015-cifar-110", "he2016-cifar", "stochastic-depth")
    },
    **{
        ("he2015-cifar-110", task): r"a warmup of a duration, .*; nearest valid: schedule\.warmup='1 epoch'"
        for task in ("multi-label", "regression")
    },
    **{
        (name, task): "images in files, or with masks, for random-resize, .*; crop them at once, as random-scale-crop"
        for name in ("segmentation", "torchvision-segmentation")
        for task in ("multi-label", "regression")
    },
    **{("lsj", task): "unknown axis 'min_size'" for task in NETWORKS},
}


@pytest.mark.parametrize("task", list(NETWORKS))
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_takes_a_step_or_gives_the_reason(name: str, task: str, tmp_path: Path) -> None:
    if (name, task) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, task]):
            set_up(name, task, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return
    setup = set_up(name, task, tmp_path / "run")
    assert setup.task.spec.name == task
    loop = setup.loop
    x, y, _ = next(iter(loop.loader.iter_from(0)))
    before = [parameter.clone() for parameter in loop.model.parameters()]
    metrics = loop.train_step.run(loop.model, loop.loss, loop.optimizer, x, y)
    assert all(bool(value.isfinite().all()) for value in metrics.values())
    assert TASKS[task].train_metrics[0].name in metrics
    moved = [not torch.equal(old, new) for old, new in zip(before, loop.model.parameters(), strict=True)]
    assert any(moved)
