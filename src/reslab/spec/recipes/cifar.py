"""The papers' procedures for pictures of 32 pixels (CIFAR)."""

from dataclasses import replace

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import Recipe

_TRAIN_SPLIT_NOTE = "all 50,000 pictures are trained on as for its Table 6, its 45,000 and 5,000 are --val-fraction 0.1"

HE2015 = Recipe(
    name="he2015-cifar",
    reference="He et al. 2015, arXiv:1512.03385v1, Sec. 4.2",
    optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig("multistep", milestones=("32k steps", "48k steps"), gamma=0.1),
    duration="64k steps",
    batch_size=128,
    train_transform="pad(4) crop(32) flip",
    model="resnet20_cifar",
    data="cifar10",
    pixel_mean=True,
    notes=_TRAIN_SPLIT_NOTE,
)

CIFAR: tuple[Recipe, ...] = (
    HE2015,
    replace(
        HE2015,
        name="he2015-cifar-110",
        reference="He et al. 2015, arXiv:1512.03385v1, Sec. 4.2 (110 layers)",
        schedule=replace(HE2015.schedule, warmup="until error 80%", warmup_shape="constant", warmup_factor=0.1),
        model="resnet110_cifar",
        notes=f"{_TRAIN_SPLIT_NOTE}; the training error is that of each report, of 50 steps or to an epoch's end",
    ),
    replace(
        HE2015,
        name="he2016-cifar",
        reference="He et al. 2016, arXiv:1603.05027, Sec. 4.1 and appendix",
        schedule=replace(HE2015.schedule, warmup="400 steps", warmup_shape="constant", warmup_factor=0.1),
        model="preresnet164_cifar",
        notes="its tables are medians of 5 runs",
    ),
    Recipe(
        name="wrn-cifar",
        reference="Zagoruyko and Komodakis 2016, arXiv:1605.07146, Sec. 3",
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleConfig("multistep", milestones=("60 epochs", "120 epochs", "160 epochs"), gamma=0.2),
        duration="200 epochs",
        batch_size=128,
        train_transform="pad(4,reflect) crop(32) flip",
        model="wrn28_10_cifar",
        data="cifar10",
        notes="with dropout (its Table 6): --set model.drop_rate=0.3; its tables are medians of 5 runs",
    ),
    Recipe(
        name="stochastic-depth",
        reference="Huang et al. 2016, arXiv:1603.09382, Sec. 4; the authors' yueatsprograms/Stochastic_Depth, main.lua",
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
        schedule=ScheduleConfig("multistep", milestones=("250 epochs", "375 epochs"), gamma=0.1),
        duration="500 epochs",
        batch_size=128,
        train_transform="pad(4) crop(32) flip",
        model="resnet110_cifar",
        arch_overrides=("merge=stochastic-depth(0.5)",),
        data="cifar10",
        val_fraction=0.1,
        pixel_mean=True,
        notes="45,000 and 5,000 drawn by class, in the code at random; the code divides the rate one epoch earlier, "
        "and the pictures by one deviation of all pixels, which a first convolution with BatchNorm does not see",
    ),
)
