"""Procedures of papers and libraries for ImageNet's photographs at 224 pixels."""

from dataclasses import replace

from reslab.spec.optim import Optimizer, Schedule
from reslab.spec.recipe import Recipe

_CENTER = "resize(256) center-crop(224)"
_THIRDS = ("30 epochs", "60 epochs", "80 epochs")
_SMOOTH_SGD = Optimizer(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_norm_and_bias=False)
_LAMB = Optimizer("lamb", lr=5e-3, weight_decay=0.01, decay_norm_and_bias=False)

_HE2015 = Recipe(
    name="he2015-imagenet",
    source="He et al. 2015, arXiv:1512.03385v1, Sec. 3.4",
    optimizer=Optimizer(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule("plateau", gamma=0.1, patience=5),
    length="600k steps",
    batch=256,
    augment="random-scale-crop(224,256,480) flip lighting(0.1)",
    test=_CENTER,
    model="resnet50_v1",
    data="imagenet",
    notes="the paper divides the rate by 10 where the error stops falling, without saying how long it waits: 5 epochs "
    "here, of up to 60e4 steps; "
    "a mean and deviation per channel, in the paper a mean per pixel; judged on one view; its Tables 2 and 3 on ten: "
    '`reslab eval RUN --preprocess "resize(256) center-crop(256)" --views "ten-crop(224)"`; its Table 4 fully '
    'convolutional at five scales: `reslab eval RUN --preprocess "" --views "scales(224,256,384,480,640)" -b 1` (whole '
    "pictures, one at a time as their sizes differ; probabilities are averaged where the paper says scores)",
)

_V1 = Recipe(
    name="torchvision-v1",
    source="torchvision references/classification, the defaults of train.py (IMAGENET1K_V1); the baseline of "
    "pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives",
    optimizer=Optimizer(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Schedule("steps", milestones=("30 epochs", "60 epochs"), gamma=0.1),
    length="90 epochs",
    batch=256,
    augment="random-resized-crop(224) flip",
    test=_CENTER,
    model="resnet50",
    data="imagenet",
    notes="there 8 processes of 32, each with BatchNorm of its own",
)

_A1 = Recipe(
    name="rsb-a1",
    source="Wightman, Touvron and Jégou 2021, arXiv:2110.00476, Table 2; mmpretrain resnet50_8xb256-rsb-a1",
    optimizer=_LAMB,
    schedule=Schedule("cosine", warmup="5 epochs", start=1e-4, end=1e-6 / 5e-3),
    length="600 epochs",
    batch=2048,
    augment="random-resized-crop(224,bicubic) flip randaugment(7,0.5) mixup(0.2) cutmix(1)",
    label_smoothing=0.1,
    loss="bce(0.2)",
    repeats=3,
    test="resize(236,bicubic) center-crop(224)",
    model="resnet50",
    axes=("mix=drop-path(0.05)",),
    data="imagenet",
    notes="of mixed classes each whose share is above 0.2 is a whole target, after smoothing, as in timm; "
    "the three repeats and the threshold as recalled and as others run it with timm, not read in the paper",
)

IMAGENET: tuple[Recipe, ...] = (
    _HE2015,
    Recipe(
        name="goyal2017",
        source="Goyal et al. 2017, arXiv:1706.02677, Sec. 5.1",
        optimizer=_SMOOTH_SGD,
        schedule=Schedule("steps", warmup="5 epochs", start_lr=0.1, milestones=_THIRDS, gamma=0.1),
        length="90 epochs",
        batch=256,
        augment="random-resized-crop(224) flip",
        test=_CENTER,
        model="resnet50",
        axes=("last_norm_weight=0", "init=goyal"),
        data="imagenet",
        notes="0.1 per 256: -b 8192 is the paper's large batch, from 0.1 to 3.2 within 5 epochs, and at 256 there is "
        "nothing to rise; BatchNorm sees 32 pictures there: here the whole part of a process, or 1/k of it with "
        "accumulate=k; it decays the biases and reports the median of the last 5 epochs",
    ),
    Recipe(
        name="bag-of-tricks",
        source="He, Tong et al. 2019, arXiv:1812.01187, Secs. 3 and 5: all but distillation",
        optimizer=replace(_SMOOTH_SGD, lr=0.4),
        schedule=Schedule("cosine", warmup="5 epochs", start=0.0),
        length="200 epochs",
        batch=1024,
        augment="random-resized-crop(224) flip color-jitter(0.4,0.4,0.4) lighting(0.1) mixup(0.2)",
        label_smoothing=0.1,
        test=_CENTER,
        model="resnet50d",
        axes=("last_norm_weight=0", "init=xavier"),
        data="imagenet",
        notes="read in notes of others on the paper: pictures, weights and rates; as recalled: the batch of 1,024, "
        "mixup(0.2), the 5 and 200 epochs; it computes in fp16 (--set precision=fp16) and changes the hue in place of "
        "the contrast",
    ),
    _V1,
    replace(
        _V1,
        name="torchvision-v2",
        source="github.com/pytorch/vision/issues/3995 and pytorch.org/blog/how-to-train-state-of-the-art-models-using-"
        "torchvision-latest-primitives, the new recipe (IMAGENET1K_V2)",
        optimizer=Optimizer(lr=0.5, momentum=0.9, weight_decay=2e-5, decay_norm_and_bias=False),
        schedule=Schedule("cosine", warmup="5 epochs", start=0.01),
        length="600 epochs",
        batch=1024,
        augment="random-resized-crop(176) flip trivial-augment erase(0.1) mixup(0.2) cutmix(1)",
        label_smoothing=0.1,
        ema=1 - 2e-5 * 1024 * 32 / 600,
        ema_every=32,
        repeats=4,
        test="resize(232) center-crop(224)",
        notes="8 processes of 128; the average's decay is torchvision's 0.99998 as train.py adapts it to batch and "
        "epochs; it decays the last layer's bias, and changes the rate once an epoch",
    ),
    _A1,
    replace(
        _A1,
        name="rsb-a2",
        source=_A1.source.replace("a1", "a2"),
        optimizer=replace(_LAMB, weight_decay=0.02),
        length="300 epochs",
        augment=_A1.augment.replace("mixup(0.2)", "mixup(0.1)"),
        label_smoothing=0.0,
    ),
    replace(
        _A1,
        name="rsb-a3",
        source=_A1.source.replace("a1", "a3"),
        optimizer=replace(_LAMB, lr=8e-3, weight_decay=0.02),
        schedule=replace(_A1.schedule, end=1e-6 / 8e-3),
        length="100 epochs",
        augment="random-resized-crop(160,bicubic) flip randaugment(6,0.5) mixup(0.1) cutmix(1)",
        label_smoothing=0.0,
        repeats=1,
        axes=(),
        notes="of mixed classes each whose share is above 0.2 is a whole target, as in timm; trained at 160 pixels as "
        "recalled, not checked in the paper (mmpretrain has 224)",
    ),
)
