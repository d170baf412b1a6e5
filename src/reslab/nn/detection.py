"""Object detectors: torchvision's Faster R-CNN, Mask R-CNN and RetinaNet on any residual backbone.

Anchors and proposals are sampled for the losses with torch's global generator, at every step in training mode: a
trainer that seeds it at every step gets the same losses again.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_pool
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from reslab.nn.box_precision import keep_boxes_precise
from reslab.nn.dense import DenseNetwork, FeatureBackbone
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import NormLayer, make_norm_layer
from reslab.spec.arch import Arch
from reslab.spec.dense import DetectionArch, Detector, ExtraLevels, RoiPool
from reslab.spec.preprocess import Preprocess, unit_preprocess

_BOX_FEATURES = 1024
_MASK_CHANNELS = (256, 256, 256, 256)
_MASK_ROI_SIZE = 14
_SAMPLING_RATIO = 2
_NORM_EPS, _NORM_MOMENTUM = 1e-5, 0.1


class PyramidBody(FeatureBackbone):
    """A residual network that returns the maps of some of its stages, numbered from "0", for a feature pyramid."""

    def __init__(self, arch: Arch, stages: tuple[int, ...], norm_layer: NormLayer | None = None) -> None:
        super().__init__(arch, norm_layer)
        self.level_names = {f"layer{stage}": str(level) for level, stage in enumerate(stages)}
        self.level_strides = tuple(self.strides[name] for name in self.level_names)
        last = self.stage_names[stages[-1] - 1]
        if last != self.stage_names[-1]:
            self.truncate(stages[-1], self.strides[last])

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        maps = super().forward(x)
        return OrderedDict((level, maps[name]) for name, level in self.level_names.items())


class C4Backbone(FeatureBackbone):
    """A residual network up to its last stage but one; returns its last map N C H W. See `RegionHead`."""

    def __init__(self, arch: Arch, norm_layer: NormLayer | None = None) -> None:
        super().__init__(arch, norm_layer)
        self.out_name = self.stage_names[-2]
        self.out_channels, self.out_stride = self.channels[self.out_name], self.strides[self.out_name]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.features(x)[self.out_name]


class RegionHead(nn.Module):
    """The last stage of a network and what follows it, as the head of each region; N C h w to features N C' 1 1.

    It takes these modules over from the network. He et al. 2015, Appendix A: "RoI pooling is performed before conv5_1.
    On this RoI-pooled feature, all layers of conv5_x and up are adopted for each region".
    """

    def __init__(self, network: C4Backbone) -> None:
        super().__init__()
        last = network.stage_names[-1]
        names = (last.replace("layer", "transition"), last, *network.final_names)
        self.module_names = tuple(name for name in names if name in network._modules)
        for name in self.module_names:
            self.add_module(name, network._modules[name])
        self.out_channels = network.channels[last]
        network.truncate(len(network.stage_names) - 1, network.out_stride)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.module_names:
            x = getattr(self, name)(x)
        return F.adaptive_avg_pool2d(x, 1)


class RoiMaxPool(nn.Module):
    """The maximum over each cell of a grid on each region (Girshick 2015, arXiv:1504.08083, Sec. 2.1)."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        features = maps["0"]
        # torchvision's kernel for processors has no half precision; a maximum has no rounding.
        dtype = torch.promote_types(features.dtype, torch.float32)
        pooled: Tensor = roi_pool(features.to(dtype), [box.to(dtype) for box in boxes], self.size, 1 / self.stride)
        return pooled.to(features.dtype)


class _DetectionNetwork(DenseNetwork):
    """The base of the detectors. In eval mode `model(images)` returns a dictionary for each image.

    * Input: a list of images C H W in [0, 1], of any sizes; the network resizes and normalizes them itself.
    * Eval mode: `boxes` (K, 4) as x1, y1, x2, y2 in pixels, `labels` (K), `scores` (K), for Mask R-CNN `masks`
      (K, 1, H, W) in [0, 1]. Class 0 is the background.
    * Training mode: `model(images, targets)` returns the losses by name; `targets` has `boxes` and `labels`, and for
      Mask R-CNN `masks` (K, H, W) of 0 and 1, for each image.

    Keys are torchvision's (`backbone.body.conv1.weight`, `rpn.head.conv.0.0.weight`).
    """

    part_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backbone": ("backbone.body", "backbone"),
        "pyramid": ("backbone.fpn",),
        "region proposals": ("rpn",),
        "box head": ("roi_heads.box_head", "roi_heads.box_predictor"),
        "mask head": ("roi_heads.mask_head", "roi_heads.mask_predictor"),
        "class and box heads": ("head",),
    }
    arch: DetectionArch
    backbone: Any
    rpn: Any
    roi_heads: Any
    transform: Any

    @property
    def residual_network(self) -> ResidualNetwork:
        """The backbone."""
        network: ResidualNetwork = self.backbone.body if hasattr(self.backbone, "body") else self.backbone
        return network

    def set_metadata(self, *, preprocess: Preprocess | None = None, **values: Any) -> None:
        """Set class names, task and temperature; of a preprocessing only the scaling to [0, 1] is kept."""
        super().set_metadata(preprocess=None if preprocess is None else unit_preprocess(preprocess), **values)

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set mean and standard deviation of images in [0, 1]."""
        self._set_axes(self.arch.normalization_axes(tuple(mean), tuple(std)))

    def copy_normalization(self, arch: Any) -> None:
        """Set mean and standard deviation of another detector, whose weights are loaded."""
        self.set_normalization(arch.image_mean, arch.image_std)

    def set_size(self, size: int) -> None:
        """Set the shorter side to which images are resized, and the longest in the same ratio."""
        self._set_axes(self.arch.size_axes(size))

    def trace_forward(self, x: Tensor) -> None:
        """Run every layer on an image (1, C, H, W), with zeros in place of selected regions: what costs are counted on.

        The image gets the size to which the network resizes and pads it. There are as many regions as proposals in
        evaluation, and as many masks as detections.
        """
        sides = self.arch.padded_size(int(x.shape[-2]), int(x.shape[-1]))
        maps = self.backbone(x.new_zeros((*x.shape[:2], *sides)))
        self._trace_heads(maps if isinstance(maps, dict) else {"0": maps})

    def _trace_heads(self, maps: dict[str, Tensor]) -> None:
        """Run the heads on the maps of the backbone or pyramid."""
        arch, levels = self.arch, list(maps.values())
        self.rpn.head(levels)
        regions = levels[0].new_zeros((arch.proposals[1], levels[0].shape[1], arch.roi_size, arch.roi_size))
        self.roi_heads.box_predictor(self.roi_heads.box_head(regions))
        if self.roi_heads.has_mask():
            shape = (arch.max_detections, levels[0].shape[1], _MASK_ROI_SIZE, _MASK_ROI_SIZE)
            self.roi_heads.mask_predictor(self.roi_heads.mask_head(levels[0].new_zeros(shape)))

    def _set_axes(self, axes: dict[str, Any]) -> None:
        self.arch = replace(self.arch, **axes)
        for name, value in _transform_arguments(self.arch).items():
            setattr(self.transform, name, (value,) if name == "min_size" else value)


class FasterRCNNDetector(_DetectionNetwork, FasterRCNN):
    """Faster R-CNN, on a feature pyramid or, with the last stage as the head of each region, on one map."""

    class_layers = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")

    @property
    def backbone_parts(self) -> tuple[nn.Module, ...]:
        """The modules that hold the backbone's weights."""
        head = self.roi_heads.box_head
        return (self.residual_network, head) if isinstance(head, RegionHead) else (self.residual_network,)


class MaskRCNNDetector(_DetectionNetwork, MaskRCNN):
    """Mask R-CNN on a feature pyramid."""

    class_layers = (*FasterRCNNDetector.class_layers, "roi_heads.mask_predictor.mask_fcn_logits")


class RetinaNetDetector(_DetectionNetwork, RetinaNet):
    """RetinaNet on a feature pyramid."""

    class_layers = ("head.classification_head.cls_logits",)
    head: Any

    def _trace_heads(self, maps: dict[str, Tensor]) -> None:
        self.head(list(maps.values()))


def build_detector(arch: DetectionArch, norm_layer: NormLayer | None = None) -> DenseNetwork:
    """Return the detector of this architecture with random weights; layers that are not to be trained are frozen.

    Raises ValueError for an invalid architecture.
    """
    backbone_arch = arch.backbone_arch
    network = _DETECTORS[arch.detector](arch, backbone_arch, norm_layer)
    network.arch = arch
    _set_scales(network)
    keep_boxes_precise(network)
    _freeze_layers(network, arch.trainable_layers)
    return network


def _faster_rcnn(arch: DetectionArch, backbone_arch: Arch, norm_layer: NormLayer | None) -> DenseNetwork:
    return FasterRCNNDetector(_make_pyramid(arch, backbone_arch, norm_layer), **_pyramid_head_arguments(arch))


def _mask_rcnn(arch: DetectionArch, backbone_arch: Arch, norm_layer: NormLayer | None) -> DenseNetwork:
    return MaskRCNNDetector(
        _make_pyramid(arch, backbone_arch, norm_layer),
        **_pyramid_head_arguments(arch),
        mask_roi_pool=MultiScaleRoIAlign(_level_names(arch), _MASK_ROI_SIZE, _SAMPLING_RATIO),
        mask_head=MaskRCNNHeads(arch.pyramid_channels, _MASK_CHANNELS, 1, norm_layer=_make_norm(arch.head_norm)),
    )


def _faster_rcnn_c4(arch: DetectionArch, backbone_arch: Arch, norm_layer: NormLayer | None) -> DenseNetwork:
    backbone = C4Backbone(backbone_arch, norm_layer)
    head = RegionHead(backbone)
    network = FasterRCNNDetector(
        backbone,
        **_rcnn_arguments(arch, backbone.out_channels),
        box_roi_pool=MultiScaleRoIAlign(["0"], arch.roi_size, _SAMPLING_RATIO),
        box_head=head,
        box_predictor=FastRCNNPredictor(head.out_channels, arch.num_classes),
    )
    if arch.roi_pool == RoiPool.MAX:  # FasterRCNN itself takes no other pool than its own
        network.roi_heads.box_roi_pool = RoiMaxPool(arch.roi_size, backbone.out_stride)
    return network


def _retinanet(arch: DetectionArch, backbone_arch: Arch, norm_layer: NormLayer | None) -> DenseNetwork:
    anchors = _make_anchors(arch)
    head = RetinaNetHead(
        arch.pyramid_channels,
        anchors.num_anchors_per_location()[0],
        arch.num_classes,
        norm_layer=_make_norm(arch.head_norm),
    )
    head.regression_head._loss_type = str(arch.box_loss)
    return RetinaNetDetector(
        _make_pyramid(arch, backbone_arch, norm_layer),
        arch.num_classes,
        **_transform_arguments(arch),
        anchor_generator=anchors,
        head=head,
        score_thresh=arch.score_threshold,
        nms_thresh=arch.nms_threshold,
        detections_per_img=arch.max_detections,
    )


def _set_scales(network: DenseNetwork) -> None:
    """Set the scales of the maps that regions are pooled from, by the strides of the backbone.

    torchvision derives them from the first batch, by the size of its images without their padding, so that a small
    first image would give wrong scales for all later ones.
    """
    body = network.residual_network
    strides = body.level_strides if isinstance(body, PyramidBody) else (getattr(body, "out_stride", 1),)
    levels = [round(math.log2(stride)) for stride in strides]
    for module in network.modules():
        if isinstance(module, MultiScaleRoIAlign):
            module.scales = [2.0**-level for level in levels]
            sizes = module.canonical_scale, module.canonical_level
            module.map_levels = initLevelMapper(levels[0], levels[-1], *sizes)


_DETECTORS: dict[str, Callable[[DetectionArch, Arch, NormLayer | None], DenseNetwork]] = {
    Detector.FASTER_RCNN: _faster_rcnn,
    Detector.FASTER_RCNN_C4: _faster_rcnn_c4,
    Detector.MASK_RCNN: _mask_rcnn,
    Detector.RETINANET: _retinanet,
}


def _make_pyramid(arch: DetectionArch, backbone_arch: Arch, norm_layer: NormLayer | None) -> BackboneWithFPN:
    body = PyramidBody(backbone_arch, arch.pyramid_stages, norm_layer)
    channels = [body.channels[name] for name in body.level_names]
    extra_levels = _EXTRA_LEVELS[arch.extra_levels](channels[-1], arch.pyramid_channels)
    norm = _make_norm(arch.pyramid_norm)
    pyramid = BackboneWithFPN(body, dict(body.level_names), channels, arch.pyramid_channels, extra_levels, norm)
    # In place of torchvision's list of the body's modules: the network itself, with the same keys.
    pyramid.body = body
    return pyramid


def _make_convs(in_channels: int, channels: int, *, from_pyramid: bool) -> LastLevelP6P7:
    levels = LastLevelP6P7(channels if from_pyramid else in_channels, channels)
    levels.use_P5 = from_pyramid  # which it would set for equal numbers of channels too
    return levels


_EXTRA_LEVELS: dict[str, Callable[[int, int], nn.Module]] = {
    ExtraLevels.POOL: lambda in_channels, channels: LastLevelMaxPool(),
    ExtraLevels.P5: lambda in_channels, channels: _make_convs(in_channels, channels, from_pyramid=True),
    ExtraLevels.C5: lambda in_channels, channels: _make_convs(in_channels, channels, from_pyramid=False),
}


def _make_norm(kind: str) -> NormLayer | None:
    return make_norm_layer(kind, _NORM_EPS, _NORM_MOMENTUM)


def _make_anchors(arch: DetectionArch) -> AnchorGenerator:
    return AnchorGenerator(arch.level_sizes, (arch.anchor_ratios,) * len(arch.level_sizes))


def _level_names(arch: DetectionArch) -> list[str]:
    return [str(level) for level in range(len(arch.pyramid_stages))]


def _transform_arguments(arch: DetectionArch) -> dict[str, Any]:
    return {
        "min_size": arch.min_size,
        "max_size": arch.max_size,
        "image_mean": list(arch.image_mean),
        "image_std": list(arch.image_std),
    }


def _rcnn_arguments(arch: DetectionArch, channels: int) -> dict[str, Any]:
    """Return what proposals and selection of a two-stage detector take, on maps with these channels."""
    anchors = _make_anchors(arch)
    return {
        **_transform_arguments(arch),
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=arch.rpn_convs),
        "rpn_pre_nms_top_n_train": arch.proposals_before_nms[0],
        "rpn_pre_nms_top_n_test": arch.proposals_before_nms[1],
        "rpn_post_nms_top_n_train": arch.proposals[0],
        "rpn_post_nms_top_n_test": arch.proposals[1],
        "rpn_batch_size_per_image": arch.rpn_batch_size,
        "box_batch_size_per_image": arch.roi_batch_size,
        "box_score_thresh": arch.score_threshold,
        "box_nms_thresh": arch.nms_threshold,
        "box_detections_per_img": arch.max_detections,
    }


def _pyramid_head_arguments(arch: DetectionArch) -> dict[str, Any]:
    """Return what a two-stage detector on a feature pyramid takes."""
    channels, size = arch.pyramid_channels, arch.roi_size
    box_head: nn.Module
    if arch.box_convs:
        convs, norm = [channels] * arch.box_convs, _make_norm(arch.head_norm)
        box_head = FastRCNNConvFCHead((channels, size, size), convs, [_BOX_FEATURES], norm_layer=norm)
    else:
        box_head = TwoMLPHead(channels * size**2, _BOX_FEATURES)
    return {
        **_rcnn_arguments(arch, channels),
        "num_classes": arch.num_classes,
        "box_roi_pool": MultiScaleRoIAlign(_level_names(arch), size, _SAMPLING_RATIO),
        "box_head": box_head,
    }


def _freeze_layers(network: DenseNetwork, trainable_layers: int | None) -> None:
    """Freeze the layers of the backbone but the last ones; see `DetectionArch.trainable_layers`."""
    num_stages = len(network.residual_network.arch.depths)
    if trainable_layers is None or trainable_layers > num_stages:
        return
    frozen_stages = range(1, num_stages - trainable_layers + 1)
    frozen = {*network.residual_network.stem_names}
    frozen |= {f"{part}{stage}" for stage in frozen_stages for part in ("layer", "transition")}
    for part in network.backbone_parts:
        for name, parameter in part.named_parameters():
            if name.partition(".")[0] in frozen:
                parameter.requires_grad_(False)
