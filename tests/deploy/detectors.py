"""Small detectors with random weights, whose scores are spread over classes and values."""

from typing import Any

import torch
from torch import Tensor

from reslab.nn.dense import DenseNetwork
from reslab.nn.factory import create_model
from reslab.spec.preprocess import Preprocess

CLASSES = ("ant", "bee", "cat")
PREPROCESS = Preprocess(3, "", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SMALL: dict[str, Any] = {
    "backbone.depths": (1, 1, 1, 1),
    "backbone.widths": (8, 8, 16, 16),
    "pyramid_channels": 16,
    "head_norm": "none",
    "image_size": (64, 64),
    "min_size": 64,
    "max_size": 96,
    "max_detections": 12,
}
STDS = {
    "rpn.head.cls_logits": 3.0,
    "roi_heads.box_predictor.cls_score": 1.0,
    "roi_heads.box_predictor.bbox_pred": 0.3,
    "roi_heads.mask_predictor.mask_fcn_logits": 3.0,
    "head.classification_head.cls_logits": 300.0,
}
NAMES = ("retinanet_resnet18_fpn_320", "fasterrcnn_resnet18_fpn_320", "maskrcnn_resnet18_fpn_320")


def build_detector(name: str, seed: int = 0, **axes: Any) -> DenseNetwork:
    """Return a detector of three classes in eval mode, with its metadata."""
    torch.manual_seed(seed)
    network = create_model(name, num_classes=len(CLASSES) + 1, **{**SMALL, **axes})
    assert isinstance(network, DenseNetwork)
    with torch.no_grad():
        # With the initial weights all scores are nearly equal, and rounding decides which box suppresses which.
        for name in (*network.class_layers, "rpn.head.cls_logits"):
            module = dict(network.named_modules()).get(name)
            if module is not None:
                assert isinstance(module.weight, Tensor)
                assert isinstance(module.bias, Tensor)
                module.weight.normal_(0, STDS[name])
                module.bias.zero_()
    network.set_metadata(classes=CLASSES, preprocess=PREPROCESS, task={"name": "detection"})
    return network.eval()
