"""Boxes of torchvision's detectors in float32 under autocast.

torchvision gives anchors, proposals and regression targets the type of the maps. In bf16 a coordinate has eight
significant bits: from 128 pixels on it is rounded to whole pixels, from 256 on to even ones. Boxes are then off by
pixels, small ones get a width of 0, and the loss, which has the logarithm of a width, becomes NaN. Convolutions and
products of matrices keep the type of autocast.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD

_NamesByOwner = Mapping[tuple[type[nn.Module], ...], tuple[str, ...]]

_WITH_ANCHORS = (RetinaNet, FCOS, SSD, RegionProposalNetwork)
# The modules whose outputs are decoded to boxes, scores and masks, and those that make anchors, by their owner's type.
_HEADS: _NamesByOwner = {
    _WITH_ANCHORS: ("head",),
    (RoIHeads,): ("box_predictor", "mask_predictor", "keypoint_predictor"),
}
_ANCHORS: _NamesByOwner = {_WITH_ANCHORS: ("anchor_generator",)}


def keep_boxes_precise(module: nn.Module) -> None:
    """Compute the boxes of torchvision's detectors inside the module in float32 at least, under autocast too.

    Hooks convert the outputs of the heads, and give the generators of anchors maps of that type: boxes are decoded,
    matched and encoded from these two. Another call changes nothing.
    """
    for head in _find_parts(module, _HEADS):
        if _convert_output not in head._forward_hooks.values():
            head.register_forward_hook(_convert_output)
    for anchors in _find_parts(module, _ANCHORS):
        if _convert_maps not in anchors._forward_pre_hooks.values():
            anchors.register_forward_pre_hook(_convert_maps)


def has_known_boxes(module: nn.Module) -> bool:
    """Return True if `keep_boxes_precise` knows where a detector computes boxes: if it is built of torchvision's."""
    return next(_find_parts(module, _HEADS), None) is not None


def _find_parts(module: nn.Module, names_by_owner: _NamesByOwner) -> Iterator[nn.Module]:
    for owner in module.modules():
        for types, names in names_by_owner.items():
            parts = [getattr(owner, name, None) for name in names] if isinstance(owner, types) else []
            yield from (part for part in parts if isinstance(part, nn.Module))


def _convert_maps(module: nn.Module, inputs: tuple[Any, list[Tensor]]) -> tuple[Any, list[Tensor]]:
    # Anchors depend on size, type and device of the maps alone: one zero in place of each map takes no memory.
    images, maps = inputs
    return images, [one.new_zeros((), dtype=_at_least_float32(one)).expand(one.shape) for one in maps]


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
