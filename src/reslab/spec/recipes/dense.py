"""Recipes for segmentation and object detection."""

from dataclasses import replace

from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.recipe import Recipe
from reslab.spec.recipes.defaults import MUON

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


_TORCHVISION = Recipe(
    name="torchvision-detection",
    reference="torchvision references/detection, README.md and the defaults of train.py: Faster R-CNN and Mask R-CNN",
    optimizer=OptimizerConfig(lr=0.02, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig(
        "multistep", warmup="1k steps", warmup_factor=1e-3, milestones=("16 epochs", "22 epochs"), gamma=0.1
    ),
    duration="26 epochs",
    batch_size=16,
    train_transform="flip",
    loss="detector",
    model="fasterrcnn_resnet50_fpn",
    notes="torchvision trains 8 processes of 2 images of similar aspect each. It starts from ResNet-50 trained on "
    "ImageNet, with fixed batch norm and three of five layers trained: `--pretrained resnet50.pth --set "
    "model.norm=frozen --set model.trainable_layers=3`. Without weights all layers and batch norm are trained, as in "
    "torchvision",
)

DETECTION: tuple[Recipe, ...] = (
    Recipe(
        name="detection-small",
        reference="our own, for hundreds of images of 320 pixels on a processor",
        optimizer=MUON,
        schedule=ScheduleConfig("one-cycle"),
        duration="15 epochs",
        batch_size=8,
        train_transform="flip",
        loss="detector",
        precision="auto",
        channels_last=True,
        clip_grad_norm=1.0,
        eval_interval=3,  # an evaluation takes half as long as an epoch
    ),
    _TORCHVISION,
    replace(
        _TORCHVISION,
        name="torchvision-retinanet",
        reference="torchvision references/detection, README.md: RetinaNet",
        optimizer=replace(_TORCHVISION.optimizer, lr=0.01),
        model="retinanet_resnet50_fpn",
    ),
    replace(
        _TORCHVISION,
        name="lsj",
        reference="Ghiasi et al. 2021, arXiv:2012.07177, Sec. 3 (large scale jitter), with the settings of "
        "github.com/pytorch/vision/pull/5763 and 5773 (Faster R-CNN and Mask R-CNN of version 2)",
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=4e-5),
        schedule=replace(_TORCHVISION.schedule, milestones=("352 epochs", "384 epochs")),
        duration="400 epochs",
        batch_size=64,
        train_transform="random-resize(0.1,2,1024) pad-to(1024) crop(1024) flip",
        model="fasterrcnn_resnet50_fpn_v2",
        arch=("min_size=1024", "max_size=1024"),
        sync_bn=True,
        notes="torchvision trains 32 processes of 2 images from random weights. The factor of 1 makes the shorter side "
        "1,024 pixels long, in the paper and torchvision the longer side; evaluation fits images into 1,024 pixels, in "
        "torchvision it makes the shorter side 800 and the longer at most 1,333",
    ),
    Recipe(
        name="he2015-detection",
        reference="He et al. 2015, arXiv:1512.03385v1, Appendix A, for COCO; further settings of Ren et al. 2015, "
        "arXiv:1506.01497, Sec. 3.3",
        optimizer=OptimizerConfig(lr=1e-3, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig("multistep", milestones=("240k steps",), gamma=0.1),
        duration="320k steps",
        batch_size=8,
        train_transform="flip",
        loss="detector",
        model="fasterrcnn_resnet101_c4",
        notes="trains proposals and classes jointly, as later became usual: the paper alternates between the two, each "
        "step of 320k iterations, of 8 images for the proposals and 16 for the classes. Starts from weights of "
        "ImageNet: `--pretrained resnet101.pth`; batch norm is fixed. For PASCAL VOC Ren et al. take 80k iterations "
        'with the rate divided after 60k: `-b 2 --lr 0.001 --set "duration=80k steps" --set "schedule.milestones=60k '
        'steps"`. All settings are from memory, not read in the papers',
    ),
)
