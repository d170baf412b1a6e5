"""Recipes for segmentation."""

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import Recipe

SEGMENTATION: tuple[Recipe, ...] = (
    Recipe(
        name="segmentation",
        reference="our own, for images with masks at 256 pixels; scales as torchvision references/segmentation",
        optimizer=OptimizerConfig("adamw", lr=1e-3, weight_decay=0.01, decay_norm_and_bias=False),
        schedule=ScheduleConfig("cosine", warmup="1 epoch"),
        duration="40 epochs",
        batch_size=8,
        train_transform="random-resize(0.5,2,256) pad-to(256) crop(256) flip color-jitter(0.3,0.3,0.3)",
        precision="auto",
        channels_last=True,
    ),
    Recipe(
        name="torchvision-segmentation",
        reference="torchvision references/segmentation, the defaults of train.py and presets.py",
        optimizer=OptimizerConfig(lr=0.01, momentum=0.9, weight_decay=1e-4),
        schedule=ScheduleConfig("poly", power=0.9),
        duration="30 epochs",
        batch_size=8,
        train_transform="random-resize(0.5,2,520) flip pad-to(480) crop(480)",
        eval_transform="resize(520)",
        model="fcn_resnet50",
        notes="torchvision's published weights come from 8 processes of 8 images and lr 0.02; its auxiliary head has "
        "ten times the learning rate, here the same",
    ),
)
