"""The training procedures, each with its source."""

from reslab.spec.errors import unknown
from reslab.spec.optimizer import Optimizer
from reslab.spec.recipe import Recipe, Schedule

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            source="our own, for scikit-learn's 8x8 digits: under a minute on two CPU cores",
            optimizer=Optimizer(lr=0.1, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False),
            schedule=Schedule("one-cycle"),
            length="20 epochs",
            batch=64,
            augment="pad(1) crop(8)",
            label_smoothing=0.1,
        ),
        Recipe(
            name="fashion",
            source="our own, for 28x28 gray pictures (MNIST, Fashion-MNIST)",
            optimizer=Optimizer(lr=0.1, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False),
            schedule=Schedule("one-cycle"),
            length="5 epochs",
            batch=128,
            augment="pad(2) crop(28)",
            precision="auto",
            channels_last=True,
        ),
        Recipe(
            name="cifar",
            source="our own, for 32x32 colour pictures (CIFAR)",
            optimizer=Optimizer(lr=0.2, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False),
            schedule=Schedule("one-cycle"),
            length="30 epochs",
            batch=128,
            augment="pad(4) crop(32) flip",
            precision="auto",
            channels_last=True,
            label_smoothing=0.1,
        ),
        Recipe(
            name="he2015-cifar",
            source="He et al. 2015, arXiv:1512.03385v1, Sec. 4.2",
            optimizer=Optimizer(lr=0.1, momentum=0.9, weight_decay=1e-4),
            schedule=Schedule("steps", milestones=("32k steps", "48k steps"), gamma=0.1),
            length="64k steps",
            batch=128,
            augment="pad(4) crop(32) flip",
        ),
        Recipe(
            name="photos",
            source="our own, to fine-tune a pretrained network on a folder of photographs at 224x224",
            optimizer=Optimizer(lr=0.01, nesterov=True, weight_decay=1e-4, decay_norm_and_bias=False),
            schedule=Schedule("cosine", warmup="1 epoch"),
            length="10 epochs",
            batch=32,
            augment="random-resized-crop(224) flip",
            precision="auto",
            channels_last=True,
            label_smoothing=0.1,
        ),
        Recipe(
            name="photos-scratch",
            source="our own, for photographs at 224x224 and random weights; rate of Goyal et al. 2017 (0.1 per 256)",
            optimizer=Optimizer(lr=0.0125, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False),
            schedule=Schedule("cosine", warmup="2 epochs"),
            length="40 epochs",
            batch=32,
            augment="random-resized-crop(224) flip",
            precision="auto",
            channels_last=True,
            label_smoothing=0.1,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError with the nearest names where there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, "`reslab recipes` lists all")
    return RECIPES[name]
