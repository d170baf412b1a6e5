"""A network for semantic segmentation as data: a residual backbone and a decoder."""

import math
from dataclasses import dataclass
from enum import StrEnum

from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import stem_ops
from reslab.spec.library_options import dilate
from reslab.spec.order import op_stride


class Decoder(StrEnum):
    """The part of a segmentation network between the backbone's maps and the logits."""

    FCN = "fcn"
    """A 3x3 convolution and a 1x1 convolution on the last map (torchvision's FCNHead)."""
    DEEPLABV3 = "deeplabv3"
    """Atrous spatial pyramid pooling on the last map (torchvision's DeepLabHead)."""
    UNET = "unet"
    """From the last map up: upsampling, concatenation with the map of that size, two 3x3 convolutions."""


@dataclass(frozen=True)
class SegmentationArch(DenseArch):
    """The architecture of a segmentation network. See `DenseArch` for backbone, norm, classes and image size.

    * `decoder`: a `Decoder`.
    * `aux`: a second FCN head on the last map but one, for a second loss in training.
    * `output_stride`: the stride of the last map; strides of the backbone beyond it become dilation (torchvision: 8).
      None: the backbone's own.
    * `atrous_rates`: the dilations of `deeplabv3`. Chen et al. 2017, Sec. 4.1: 6, 12, 18 for output_stride 16, twice
      these for 8.
    * `decoder_channels`: the channels of the first, deepest block of `unet`; each block after it has half, at least 16.
    """

    decoder: str = Decoder.FCN
    aux: bool = False
    output_stride: int | None = None
    atrous_rates: tuple[int, ...] = (12, 24, 36)
    decoder_channels: int = 256

    @property
    def kind(self) -> ModelKind:
        """The kind of the network's predictions."""
        return ModelKind.SEGMENTATION

    @property
    def backbone_arch(self) -> Arch:
        """The backbone with the norm and the output stride of this architecture. Raises ValueError for wrong values."""
        if self.decoder not in list(Decoder):
            raise unknown_name("decoder", self.decoder, list(Decoder))
        if not self.atrous_rates or min(self.atrous_rates) < 1 or self.decoder_channels < 1:
            got = f"atrous_rates={self.atrous_rates}, decoder_channels={self.decoder_channels}"
            raise invalid("atrous_rates and decoder_channels as numbers from 1", got, "atrous_rates=12,24,36")
        arch = super().backbone_arch
        if self.aux and len(arch.depths) < 2:
            got = f"{arch.name} with {len(arch.depths)}"
            raise invalid("a backbone with two stages or more for the auxiliary head", got, "aux=false")
        return arch if self.output_stride is None else dilate(arch, self.output_stride)


def own_stride(arch: Arch) -> int:
    """Return the stride of the last map of a network without a head: that of its stem times those of its stages."""
    return math.prod(op_stride(op) for op in stem_ops(arch)) * math.prod(arch.strides)
