"""Recipes of papers for 32x32 images (CIFAR)."""

from dataclasses import replace

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import NormalizeConfig, Recipe

_TRAIN_SPLIT_NOTE = (
    "trains on all 50,000 images as for its Table 6; --val-fraction 0.1 gives its split of 45,000 and 5,000"
)

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
    normalize=NormalizeConfig(per_pixel_mean=True),
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
        notes=f"{_TRAIN_SPLIT_NOTE}; the warmup ends by the training error of a log record "
        "(50 steps, or to the end of an epoch)",
    ),
    replace(
        HE2015,
        name="he2016-cifar",
        reference="He et al. 2016, arXiv:1603.05027, Sec. 4.1 and appendix",
        schedule=replace(HE2015.schedule, warmup="400 steps", warmup_shape="constant", warmup_factor=0.1),
        model="preresnet164_cifar",
        notes="its tables report medians of 5 runs",
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
        notes="with dropout (its Table 6): --set model.drop_rate=0.3; its tables report medians of 5 runs",
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
        arch=("merge=stochastic-depth(0.5)",),
        data="cifar10",
        val_fraction=0.1,
        normalize=NormalizeConfig(per_pixel_mean=True),
        notes="the split of 45,000 and 5,000 is stratified by class here, random in the code; the code lowers the "
        "learning rate one epoch earlier and divides the images by one standard deviation of all pixels, which "
        "BatchNorm after the first convolution cancels",
    ),
)
