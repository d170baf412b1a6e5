"""The detectors by name: torchvision's, that of He et al. 2015, and small ones for small images."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reslab.spec.detection import BoxLoss, DetectionArch, Detector, ExtraLevels, RoiPool
from reslab.spec.zoo import ARCHS

_TORCHVISION = "torchvision models/detection"
_FASTER_RCNN_FPN = "Lin et al. 2017, arXiv:1612.03144, Sec. 4.2"
_LI2021 = "Li et al. 2021, arXiv:2111.11429"

_FASTER_RCNN = DetectionArch("", f"{_FASTER_RCNN_FPN}; {_TORCHVISION}/faster_rcnn.py", ARCHS["resnet50"])
_MASK_RCNN = replace(
    _FASTER_RCNN,
    reference=f"He et al. 2017, arXiv:1703.06870, Fig. 4 (right); {_TORCHVISION}/mask_rcnn.py",
    detector=Detector.MASK_RCNN,
)
_RETINANET = replace(
    _FASTER_RCNN,
    reference=f"Lin et al. 2017, arXiv:1708.02002; {_TORCHVISION}/retinanet.py",
    detector=Detector.RETINANET,
    pyramid_stages=(2, 3, 4),
    extra_levels=ExtraLevels.P5,
    anchor_scales=3,
    max_detections=300,
)
_V2: dict[str, Any] = {"pyramid_norm": "batch", "rpn_convs": 2, "box_convs": 4, "head_norm": "batch"}
_C4 = replace(
    _FASTER_RCNN,
    reference="He et al. 2015, arXiv:1512.03385, Appendix A: RoI pooling ahead of conv5_x, fixed batch norm",
    detector=Detector.FASTER_RCNN_C4,
    norm="frozen",
    anchor_sizes=(128, 256, 512),
    roi_pool=RoiPool.MAX,
    roi_size=14,
    min_size=600,
    max_size=1000,
    proposals_before_nms=(12000, 6000),
    proposals=(2000, 300),
)
# For images of a few hundred pixels, with anchors from 12 pixels.
_SMALL: dict[str, Any] = {
    "backbone": ARCHS["resnet18"],
    "min_size": 320,
    "max_size": 320,
    "image_size": (320, 320),
    "pyramid_channels": 64,
    "proposals_before_nms": (1000, 500),
    "proposals": (500, 200),
    "roi_batch_size": 128,
}

DETECTION: dict[str, DetectionArch] = {
    "fasterrcnn_resnet50_fpn": _FASTER_RCNN,
    "fasterrcnn_resnet50_fpn_v2": replace(_FASTER_RCNN, reference=f"{_LI2021}; {_TORCHVISION}/faster_rcnn.py", **_V2),
    "fasterrcnn_resnet101_fpn": replace(_FASTER_RCNN, reference=_FASTER_RCNN_FPN, backbone=ARCHS["resnet101"]),
    "maskrcnn_resnet50_fpn": _MASK_RCNN,
    "maskrcnn_resnet50_fpn_v2": replace(_MASK_RCNN, reference=f"{_LI2021}; {_TORCHVISION}/mask_rcnn.py", **_V2),
    "retinanet_resnet50_fpn": _RETINANET,
    "retinanet_resnet50_fpn_v2": replace(
        _RETINANET,
        reference=f"Zhang et al. 2020, arXiv:1912.02424; {_TORCHVISION}/retinanet.py",
        extra_levels=ExtraLevels.C5,
        head_norm="group(32)",
        box_loss=BoxLoss.GIOU,
    ),
    "fasterrcnn_resnet50_c4": _C4,
    "fasterrcnn_resnet101_c4": replace(_C4, backbone=ARCHS["resnet101"]),
    "fasterrcnn_resnet18_fpn_320": replace(
        _FASTER_RCNN, reference=_FASTER_RCNN_FPN, anchor_sizes=(12, 24, 48, 96, 192), **_SMALL
    ),
    "maskrcnn_resnet18_fpn_320": replace(
        _MASK_RCNN,
        reference="He et al. 2017, arXiv:1703.06870, Fig. 4 (right)",
        anchor_sizes=(12, 24, 48, 96, 192),
        **_SMALL,
    ),
    "retinanet_resnet18_fpn_320": replace(
        _RETINANET,
        reference="Lin et al. 2017, arXiv:1708.02002",
        anchor_sizes=(12, 24, 48, 96, 192),
        head_norm="group(32)",  # without it the losses of a head from random weights jump at a learning rate of 5e-4
        max_detections=100,
        **_SMALL,
    ),
    "fasterrcnn_resnet18_c4_320": replace(_C4, norm="", anchor_sizes=(12, 24, 48, 96, 192), **_SMALL),
}

_FROZEN = {"norm": "frozen", "norm_eps": 0.0}
PUBLISHED_AXES: dict[str, Mapping[str, Any]] = {
    "fasterrcnn_resnet50_fpn": _FROZEN,
    "maskrcnn_resnet50_fpn": _FROZEN,
    "retinanet_resnet50_fpn": _FROZEN,
}
"""The axes with which torchvision's published weights of a name were trained (its `overwrite_eps`)."""
