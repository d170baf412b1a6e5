"""Recipes of papers and libraries for ImageNet at 224 pixels."""

from dataclasses import replace

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import EMAConfig, Recipe

_CENTER_CROP_224 = "resize(256) center-crop(224)"
_MILESTONES = ("30 epochs", "60 epochs", "80 epochs")
_NESTEROV = OptimizerConfig(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_norm_and_bias=False)
_LAMB = OptimizerConfig("lamb", lr=5e-3, weight_decay=0.01, decay_norm_and_bias=False)

_HE2015 = Recipe(
    name="he2015-imagenet",
    reference="He et al. 2015, arXiv:1512.03385v1, Sec. 3.4",
    optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig("plateau", gamma=0.1, patience=5),
    duration="600k steps",
    batch_size=256,
    train_transform="random-scale-crop(224,256,480) flip lighting(0.1)",
    eval_transform=_CENTER_CROP_224,
    model="resnet50_v1",
    data="imagenet",
    notes="the paper divides the learning rate by 10 when the error plateaus, without saying for how long: 5 epochs "
    "here, of up to 60e4 steps; normalizes by a mean and standard deviation per channel, the paper by a mean "
    "per pixel; "
    "evaluates on one crop. Its Tables 2 and 3 use ten crops: "
    '`reslab eval RUN --eval-transform "resize(256) center-crop(256)" --tta "ten-crop(224)"`. Its Table 4 is fully '
    'convolutional at five scales: `reslab eval RUN --eval-transform "" --tta "scales(224,256,384,480,640)" '
    "--batch-size 1` (whole images, one at a time because their sizes differ; averages probabilities, the "
    "paper scores)",
)

_TORCHVISION_V1 = Recipe(
    name="torchvision-v1",
    reference="torchvision references/classification, the defaults of train.py (IMAGENET1K_V1); the baseline of "
    "pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives",
    optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig("multistep", milestones=("30 epochs", "60 epochs"), gamma=0.1),
    duration="90 epochs",
    batch_size=256,
    train_transform="random-resized-crop(224) flip",
    eval_transform=_CENTER_CROP_224,
    model="resnet50",
    data="imagenet",
    notes="torchvision trains 8 processes of 32 images, each with its own BatchNorm statistics",
)

_A1 = Recipe(
    name="rsb-a1",
    reference="Wightman, Touvron and Jégou 2021, arXiv:2110.00476, Table 2; mmpretrain resnet50_8xb256-rsb-a1",
    optimizer=_LAMB,
    schedule=ScheduleConfig("cosine", warmup="5 epochs", warmup_factor=1e-4, final_factor=1e-6 / 5e-3),
    duration="600 epochs",
    batch_size=2048,
    train_transform="random-resized-crop(224,bicubic) flip randaugment(7,0.5) mixup(0.2) cutmix(1)",
    label_smoothing=0.1,
    loss="bce(0.2)",
    repeated_augmentation=3,
    eval_transform="resize(236,bicubic) center-crop(224)",
    model="resnet50",
    arch=("merge=drop-path(0.05)",),
    data="imagenet",
    notes="mixed targets above 0.2 (after smoothing) become 1, as in timm; the three repeats and the threshold are "
    "from memory and from other users' timm settings, not read in the paper",
)

IMAGENET: tuple[Recipe, ...] = (
    _HE2015,
    Recipe(
        name="goyal2017",
        reference="Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1",
        optimizer=_NESTEROV,
        schedule=ScheduleConfig("multistep", warmup="5 epochs", warmup_lr=0.1, milestones=_MILESTONES, gamma=0.1),
        duration="90 epochs",
        batch_size=256,
        train_transform="random-resized-crop(224) flip",
        eval_transform=_CENTER_CROP_224,
        model="resnet50",
        arch=("last_norm_weight=0", "init=goyal"),
        data="imagenet",
        notes="0.1 per 256: --batch-size 8192 gives the paper's large batch, whose learning rate rises from 0.1 to 3.2 "
        "within 5 epochs (at 256 there is no rise). The paper's BatchNorm sees 32 images, here the whole share of a "
        "process, or 1/k of it with grad_accum_steps=k; the paper decays biases and reports the median of the last 5 "
        "epochs",
    ),
    Recipe(
        name="bag-of-tricks",
        reference="He, Tong et al. 2019, arXiv:1812.01187, Secs. 3 and 5: all but distillation",
        optimizer=replace(_NESTEROV, lr=0.4),
        schedule=ScheduleConfig("cosine", warmup="5 epochs", warmup_factor=0.0),
        duration="200 epochs",
        batch_size=1024,
        train_transform="random-resized-crop(224) flip color-jitter(0.4,0.4,0.4) lighting(0.1) mixup(0.2)",
        label_smoothing=0.1,
        eval_transform=_CENTER_CROP_224,
        model="resnet50d",
        arch=("last_norm_weight=0", "init=xavier"),
        data="imagenet",
        notes="transforms, weights and learning rates are from secondary sources; the batch of 1,024, mixup(0.2) and "
        "the 5 and 200 epochs from memory; the paper uses fp16 (--set precision=fp16) and jitters the hue in place of "
        "the contrast",
    ),
    _TORCHVISION_V1,
    replace(
        _TORCHVISION_V1,
        name="torchvision-v2",
        reference="github.com/pytorch/vision/issues/3995 and pytorch.org/blog/how-to-train-state-of-the-art-models-"
        "using-torchvision-latest-primitives, the new recipe (IMAGENET1K_V2)",
        optimizer=OptimizerConfig(lr=0.5, momentum=0.9, weight_decay=2e-5, decay_norm_and_bias=False),
        schedule=ScheduleConfig("cosine", warmup="5 epochs", warmup_factor=0.01),
        duration="600 epochs",
        batch_size=1024,
        train_transform="random-resized-crop(176) flip trivial-augment erase(0.1) mixup(0.2) cutmix(1)",
        label_smoothing=0.1,
        ema=EMAConfig(decay=1 - 2e-5 * 1024 * 32 / 600, every=32),
        repeated_augmentation=4,
        eval_transform="resize(232) center-crop(224)",
        notes="torchvision trains 8 processes of 128 images; ema.decay is its 0.99998, which train.py adapts to batch "
        "size and epochs; it decays the last layer's bias and changes the learning rate once an epoch",
    ),
    _A1,
    replace(
        _A1,
        name="rsb-a2",
        reference=_A1.reference.replace("a1", "a2"),
        optimizer=replace(_LAMB, weight_decay=0.02),
        duration="300 epochs",
        train_transform=_A1.train_transform.replace("mixup(0.2)", "mixup(0.1)"),
        label_smoothing=0.0,
    ),
    replace(
        _A1,
        name="rsb-a3",
        reference=_A1.reference.replace("a1", "a3"),
        optimizer=replace(_LAMB, lr=8e-3, weight_decay=0.02),
        schedule=replace(_A1.schedule, final_factor=1e-6 / 8e-3),
        duration="100 epochs",
        train_transform="random-resized-crop(160,bicubic) flip randaugment(6,0.5) mixup(0.1) cutmix(1)",
        label_smoothing=0.0,
        repeated_augmentation=1,
        arch=(),
        notes="mixed targets above 0.2 become 1, as in timm; training at 160 pixels is from memory, not checked in the "
        "paper (mmpretrain has 224)",
    ),
)
