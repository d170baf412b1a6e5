"""Networks for semantic segmentation: FCN, DeepLabV3 and a U-Net decoder on any residual backbone."""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import Conv2dNormActivation

from reslab.nn.dense import DenseNetwork, FeatureBackbone
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import NormLayer
from reslab.spec.dense import Decoder, SegmentationArch

_MIN_DECODER_CHANNELS = 16


class SegmentationOutput(NamedTuple):
    """Logits N C H W of the classifier and of the auxiliary head, both of the size of the images."""

    out: Tensor
    aux: Tensor


class UNetDecoder(nn.Module):
    """From the last map up: y = block(concat(upsample(y), map)) for each map of a smaller stride, then a 1x1 conv.

    A block is two 3x3 convolutions with batch norm and ReLU; upsampling is bilinear, to the size of the map
    (Ronneberger, Fischer and Brox 2015, Fig. 1, with padded convolutions). Takes the maps, deepest first; returns
    logits of the size of the last one.
    """

    def __init__(self, map_channels: tuple[int, ...], channels: int, num_classes: int) -> None:
        super().__init__()
        blocks, in_channels = list[nn.Module](), map_channels[0]
        for i, skip_channels in enumerate(map_channels[1:]):
            width = max(channels >> i, _MIN_DECODER_CHANNELS)
            first = Conv2dNormActivation(in_channels + skip_channels, width, inplace=False)
            blocks.append(nn.Sequential(first, Conv2dNormActivation(width, width, inplace=False)))
            in_channels = width
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        for block, skip in zip(self.blocks, skips, strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat((x, skip), dim=1))
        logits: Tensor = self.head(x)
        return logits


class _Classifier(NamedTuple):
    """The module that makes logits, the names of the maps it takes, and the name of its last layer."""

    module: nn.Module
    map_names: tuple[str, ...]
    class_layer: str


def _fcn(arch: SegmentationArch, backbone: FeatureBackbone) -> _Classifier:
    last = backbone.stage_names[-1]
    return _Classifier(FCNHead(backbone.channels[last], arch.num_classes), (last,), "4")


def _deeplabv3(arch: SegmentationArch, backbone: FeatureBackbone) -> _Classifier:
    last = backbone.stage_names[-1]
    return _Classifier(DeepLabHead(backbone.channels[last], arch.num_classes, arch.atrous_rates), (last,), "4")


def _unet(arch: SegmentationArch, backbone: FeatureBackbone) -> _Classifier:
    # The deepest map of each stride.
    names = tuple(reversed({stride: name for name, stride in backbone.strides.items()}.values()))
    channels = tuple(backbone.channels[name] for name in names)
    return _Classifier(UNetDecoder(channels, arch.decoder_channels, arch.num_classes), names, "head")


_DECODERS: dict[str, Callable[[SegmentationArch, FeatureBackbone], _Classifier]] = {
    Decoder.FCN: _fcn,
    Decoder.DEEPLABV3: _deeplabv3,
    Decoder.UNET: _unet,
}


class SegmentationNetwork(DenseNetwork):
    """logits = upsample(classifier(backbone(x))), built from a `SegmentationArch`; N C H W to N num_classes H W.

    With an auxiliary head, training mode returns a `SegmentationOutput` with the logits of both; torchvision's training
    reference adds half the auxiliary loss. Eval mode, and training mode without that head, return a tensor.

    Keys are torchvision's (`backbone.conv1.weight`, `classifier.0.weight`, `aux_classifier.0.weight`). Raises
    ValueError for an invalid architecture, and in `forward` for images smaller than the stride of the backbone.
    """

    part_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backbone": ("backbone",),
        "classifier": ("classifier",),
        "auxiliary head": ("aux_classifier",),
    }
    arch: SegmentationArch

    def __init__(self, arch: SegmentationArch, norm_layer: NormLayer | None = None) -> None:
        super().__init__()
        backbone_arch = arch.backbone_arch
        self.arch = arch
        self.backbone = FeatureBackbone(backbone_arch, norm_layer)
        self.classifier, self.map_names, class_layer = _DECODERS[arch.decoder](arch, self.backbone)
        self.class_layers = (f"classifier.{class_layer}",)
        self.aux_classifier: FCNHead | None = None
        if arch.aux:
            self.aux_map_name = self.backbone.stage_names[-2]
            self.aux_classifier = FCNHead(self.backbone.channels[self.aux_map_name], arch.num_classes)
            self.class_layers += ("aux_classifier.4",)

    @property
    def residual_network(self) -> ResidualNetwork:
        """The backbone."""
        return self.backbone

    def forward(self, x: Tensor) -> Tensor | SegmentationOutput:
        maps = self.backbone(x)
        out = _resize(self.classifier(*(maps[name] for name in self.map_names)), x)
        if self.aux_classifier is None or not self.training:
            return out
        return SegmentationOutput(out, _resize(self.aux_classifier(maps[self.aux_map_name]), x))


def _resize(logits: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
