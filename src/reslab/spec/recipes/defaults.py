"""Recipes of this project: the defaults, fine-tuning, and time to accuracy."""

from dataclasses import replace

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import Recipe

_NESTEROV = OptimizerConfig(lr=0.1, nesterov=True, weight_decay=5e-4, decay_norm_and_bias=False)
_FINETUNE = replace(_NESTEROV, lr=0.01, weight_decay=1e-4)
_ONE_CYCLE = ScheduleConfig("one-cycle")
MUON = OptimizerConfig(
    "muon",
    lr=0.02,
    weight_decay=0.01,
    decay_norm_and_bias=False,
    kwargs="scale=original adamw_lr_factor=0.03",
)
"""Muon for training from random weights at 224 pixels and above, in batches of 8 to 32."""

FAST_GPU = Recipe(
    name="fast-gpu",
    reference="our own, for 94 % on CIFAR-10 on one GPU: bf16, channels last, compiled; Muon and label smoothing of "
    "Jordan 2024, github.com/KellerJordan/cifar10-airbench (airbench94_muon.py)",
    optimizer=OptimizerConfig(
        "muon",
        lr=0.24,
        momentum=0.6,
        nesterov=True,
        weight_decay=0.1,
        decay_norm_and_bias=False,
        kwargs="scale=original adamw_lr_factor=0.03",
    ),
    schedule=ScheduleConfig("linear"),
    duration="12 epochs",
    batch_size=1000,
    train_transform="pad(2,reflect) crop(32) alternating-flip",
    label_smoothing=0.2,
    precision="auto",
    channels_last=True,
    compile=True,
    cuda_graph=True,
    model="resnet11_fast",
    data="cifar10",
)

DEFAULTS: tuple[Recipe, ...] = (
    Recipe(
        name="digits",
        reference="our own, for scikit-learn's 8x8 digits: under a minute on two CPU cores",
        optimizer=_NESTEROV,
        schedule=_ONE_CYCLE,
        duration="20 epochs",
        batch_size=64,
        train_transform="pad(1) crop(8)",
        label_smoothing=0.1,
    ),
    Recipe(
        name="fashion",
        reference="our own, for 28x28 grayscale images (MNIST, Fashion-MNIST)",
        optimizer=_NESTEROV,
        schedule=_ONE_CYCLE,
        duration="5 epochs",
        batch_size=128,
        train_transform="pad(2) crop(28)",
        precision="auto",
        channels_last=True,
    ),
    Recipe(
        name="cifar",
        reference="our own, for 32x32 color images (CIFAR)",
        optimizer=replace(_NESTEROV, lr=0.2),
        schedule=_ONE_CYCLE,
        duration="30 epochs",
        batch_size=128,
        train_transform="pad(4) crop(32) flip",
        precision="auto",
        channels_last=True,
        label_smoothing=0.1,
    ),
    Recipe(
        name="photos",
        reference="our own, to fine-tune a pretrained network on a folder of photographs at 224x224",
        optimizer=_FINETUNE,
        schedule=ScheduleConfig("cosine", warmup="1 epoch"),
        duration="10 epochs",
        batch_size=32,
        train_transform="random-resized-crop(224) flip",
        precision="auto",
        channels_last=True,
        label_smoothing=0.1,
    ),
    Recipe(
        name="photos-scratch",
        reference="our own, for photographs at 224x224 and random weights: Muon of Jordan et al. 2024",
        optimizer=MUON,
        schedule=_ONE_CYCLE,
        duration="40 epochs",
        batch_size=32,
        train_transform="random-resized-crop(224) flip",
        precision="auto",
        channels_last=True,
        label_smoothing=0.1,
    ),
    Recipe(
        name="finetune",
        reference="our own: trains the head for 17 % of the run, then the last stage too, from 42 % on all; "
        "frozen BatchNorms stay fixed",
        optimizer=_FINETUNE,
        schedule=ScheduleConfig("cosine", warmup="1 epoch"),
        duration="12 epochs",
        batch_size=32,
        train_transform="random-resized-crop(224) flip",
        precision="auto",
        channels_last=True,
        label_smoothing=0.1,
        pretrained=True,
        unfreeze=("head: 0%", "last-stage: 17%", "all: 42%"),
    ),
    Recipe(
        name="fast-cpu",
        reference="our own, for time to accuracy on two CPU cores: 0.75 epochs of Fashion-MNIST with Muon",
        optimizer=replace(FAST_GPU.optimizer, lr=0.34),
        schedule=ScheduleConfig("linear"),
        duration="0.75 epochs",
        batch_size=256,
        label_smoothing=0.1,
        precision="auto",
        channels_last=True,
        model="resnet8_fast",
        data="fashion-mnist",
    ),
    FAST_GPU,
    replace(
        FAST_GPU,
        name="fast-gpu-96",
        reference="our own, for 96 % on CIFAR-10 on one GPU: fast-gpu with a wider network, cutout and 58 epochs",
        duration="58 epochs",
        train_transform="pad(4,reflect) crop(32) alternating-flip cutout(12,120)",
        model="resnet11_fast_wide",
    ),
)
