"""The papers' procedures for pictures of 32 pixels (CIFAR)."""

from dataclasses import replace

from reslab.spec.optim import Optimizer, Schedule
from reslab.spec.recipe import Recipe

_ALL_50K = "all 50,000 pictures are trained on as for its Table 6, its 45,000 and 5,000 are --val-fraction 0.1"

HE2015 = Recipe(
    name="he2015-cifar",
    source="He et al. 2015, arXiv:1512.03385v1, Sec. 4.2",
    optimizer=Optimizer(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule("steps", milestones=("32k steps", "48k steps"), gamma=0.1),
    length="64k steps",
    batch=128,
    augment="pad(4) crop(32) flip",
    model="resnet20_cifar",
    data="cifar10",
    pixel_mean=True,
    notes=_ALL_50K,
)

SMALL: tuple[Recipe, ...] = (
    HE2015,
    replace(
        HE2015,
        name="he2015-cifar-110",
        source="He et al. 2015, arXiv:1512.03385v1, Sec. 4.2 (110 layers)",
        schedule=replace(HE2015.schedule, warmup="until error 80%", warmup_shape="constant", start=0.1),
        model="resnet110_cifar",
        notes=f"{_ALL_50K}; the training error is that of each report, of 50 steps or to an epoch's end",
    ),
    replace(
        HE2015,
        name="he2016-cifar",
        source="He et al. 2016, arXiv:1603.05027, Sec. 4.1 and appendix",
        schedule=replace(HE2015.schedule, warmup="400 steps", warmup_shape="constant", start=0.1),
        model="preresnet164_cifar",
        notes="its tables are medians of 5 runs",
    ),
    Recipe(
        name="wrn-cifar",
        source="Zagoruyko and Komodakis 2016, arXiv:1605.07146, Sec. 3",
        optimizer=Optimizer(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Schedule("steps", milestones=("60 epochs", "120 epochs", "160 epochs"), gamma=0.2),
        length="200 epochs",
        batch=128,
        augment="pad(4,reflect) crop(32) flip",
        model="wrn28_10_cifar",
        data="cifar10",
        notes="with dropout (its Table 6): --set model.drop=0.3; its tables are medians of 5 runs",
    ),
    Recipe(
        name="stochastic-depth",
        source="Huang et al. 2016, arXiv:1603.09382, Sec. 4; the authors' yueatsprograms/Stochastic_Depth, main.lua",
        optimizer=Optimizer(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
        schedule=Schedule("steps", milestones=("250 epochs", "375 epochs"), gamma=0.1),
        length="500 epochs",
        batch=128,
        augment="pad(4) crop(32) flip",
        model="resnet110_cifar",
        axes=("mix=survive(0.5)",),
        data="cifar10",
        val_fraction=0.1,
        pixel_mean=True,
        notes="45,000 and 5,000 drawn by class, in the code at random; the code divides the rate one epoch earlier, "
        "and the pictures by one deviation of all pixels, which a first convolution with BatchNorm does not see",
    ),
)
