"""Boxes of torchvision's detectors in float32 under autocast.

torchvision gives anchors, proposals and regression targets the type of the maps. In bf16 a coordinate has eight
significant bits: from 128 pixels on it is rounded to whole pixels, from 256 on to even ones. Boxes are then off by
pixels, small ones get a width of 0, and the loss, which has the logarithm of a width, becomes NaN. Convolutions and
products of matrices keep the type of autocast.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

# The modules whose outputs are decoded to boxes, scores and masks.
_HEADS = ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "head")


class PreciseAnchors(AnchorGenerator):
    """torchvision's anchors, in float32 at least."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        # Only size, type and device of the maps are read.
        shapes = [one.new_empty((0, *one.shape[1:]), dtype=_at_least_float32(one)) for one in feature_maps]
        anchors: list[Tensor] = super().forward(image_list, shapes)
        return anchors


def keep_boxes_precise(detector: nn.Module) -> None:
    """Return the outputs of the detector's heads in float32 at least."""
    modules = dict(detector.named_modules())
    for name in _HEADS:
        if name in modules:
            modules[name].register_forward_hook(_convert_output)


def _convert_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return _convert(output)


def _convert(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(_at_least_float32(value))
    if isinstance(value, dict):
        return {name: _convert(one) for name, one in value.items()}
    return type(value)(_convert(one) for one in value)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
