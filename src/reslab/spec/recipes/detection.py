"""Recipes for object detection."""

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import Recipe

DETECTION: tuple[Recipe, ...] = (
    Recipe(
        name="detection-small",
        reference="our own, for hundreds of images of 320 pixels on a processor",
        optimizer=OptimizerConfig("adamw", lr=5e-4, weight_decay=0.01, decay_norm_and_bias=False),
        schedule=ScheduleConfig("one-cycle"),
        duration="15 epochs",
        batch_size=8,
        train_transform="flip",
        loss="detector",
        precision="auto",
        channels_last=True,
    ),
)
