"""Networks for segmentation and detection as data: the fields that both have, segmentation, and limits on sizes."""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, ClassVar

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import stem_ops
from reslab.spec.library_options import dilate
from reslab.spec.order import op_stride


class ModelKind(StrEnum):
    """The predictions of a network: classes, masks or boxes."""

    CLASSIFICATION = "classification"
    """One vector of logits for each image (`Arch`)."""
    SEGMENTATION = "segmentation"
    """Logits for each pixel (`SegmentationArch`)."""
    DETECTION = "detection"
    """Boxes with classes and scores, and masks (`DetectionArch`)."""


@dataclass(frozen=True)
class DenseArch(ABC):
    """The architecture of a network that predicts for places of an image. Every field is an axis.

    * `backbone`: a network of the zoo, of which the head is left out. Its own axes are axes here too
      (`create_model("fcn_resnet50", order="full-preact")`).
    * `norm`: the norm in place of the backbone's batch norm: `frozen`, `group(32)`; empty: its own.
    * `image_size`: height and width of the images that the network is described for. It takes others.

    Values are checked when the network is built, because most rules concern several axes.
    """

    name: str
    reference: str
    backbone: Arch
    num_classes: int = 21
    norm: str = ""
    image_size: tuple[int, int] = (224, 224)

    num_background: ClassVar[int] = 0
    """How many of `num_classes` are no classes of the data: 1 where class 0 is the background."""
    resizes_images: ClassVar[bool] = False
    """True if the network itself resizes and normalizes images in [0, 1]."""

    def size_axes(self, size: int) -> dict[str, Any]:
        """Return the axes that set the size of the images, where the network resizes them itself."""
        return {}

    def normalization_axes(self, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
        """Return the axes that set the normalization, where the network normalizes images itself."""
        return {}

    def smallest_input(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the smallest size (C, H, W) that the backbone gets for images of this size."""
        return size

    @property
    @abstractmethod
    def kind(self) -> ModelKind:
        """The kind of the network's predictions."""

    @property
    def in_channels(self) -> int:
        """The number of channels of the images."""
        return self.backbone.in_channels

    @property
    def dims(self) -> int:
        """The number of dimensions of the maps."""
        return self.backbone.dims

    @property
    def depth(self) -> int:
        """The number of weighted layers of the backbone, as its paper counts them."""
        return self.backbone.depth

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the images the network is described for."""
        return (self.in_channels, *self.image_size)

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the images the network is described for."""
        return self.image_size

    @property
    def backbone_arch(self) -> Arch:
        """The backbone with the axes that this architecture sets. Raises ValueError unless its maps are of images."""
        if self.num_classes < 1 or len(self.image_size) != 2 or min(self.image_size) < 1:
            required = "num_classes from 1, and image_size as height and width from 1"
            raise invalid(required, f"num_classes={self.num_classes}, image_size={self.image_size}")
        if self.backbone.dims != 2:
            raise invalid("a backbone for images (dims=2)", f"{self.backbone.name} with dims={self.dims}", "dims=2")
        if not self.backbone.depths:
            raise invalid("a backbone with stages of blocks", f"{self.backbone.name}, which has none", "resnet18")
        if not self.norm or self.backbone.norm != "batch":
            return self.backbone
        return replace(self.backbone, norm=self.norm)


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


# A larger input would not fit in memory; the papers' inputs are below 1,000.
MAX_IMAGE_SIDE = 16384
MAX_SIZE = 10_000_000
"""The largest number of channels, classes, groups or blocks."""
MAX_NUMBER_IN_TEXT = 100_000
"""The largest number in an expression, where it may count branches or convolutions: `conv(res2(4))`."""
MAX_TEXT_LENGTH = 10_000
MAX_VALUES = 1_000
"""The most values of an axis: one a stage, or one a convolution of a block."""
_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE]\+?\d+)?|\.\d+(?:[eE]\+?\d+)?")


def check_arch_size(arch: Arch | DenseArch, source: object) -> None:
    """Raise ValueError, naming the axis and `source`, for a size that no network has."""
    if isinstance(arch, DenseArch):
        check_arch_size(arch.backbone, source)
    sides = arch.image_size
    if arch.dims not in (1, 2, 3):
        raise invalid("arch.dims of 1, 2 or 3", f"{str(arch.dims)[:40]} in {source}")
    if len(sides) != arch.dims or min(sides) < 1 or max(sides) > MAX_IMAGE_SIDE:
        number = {1: "one side", 2: "two sides", 3: "three sides"}[arch.dims]
        raise invalid(f"arch.image_size as {number} from 1 to {MAX_IMAGE_SIDE}", f"{list(sides)} in {source}")
    for field in fields(arch):
        if field.name not in ("name", "reference"):
            _check_axis(field.name, getattr(arch, field.name), source)


def _check_axis(name: str, value: Any, source: object) -> None:
    if isinstance(value, str):
        if len(value) > MAX_TEXT_LENGTH:
            raise invalid(f"arch.{name} of at most {MAX_TEXT_LENGTH:,} characters", f"{len(value):,} in {source}")
        for number in _NUMBER.findall(value):
            # The length first: float() of thousands of digits is infinite, and int() of them an error.
            if len(number) > 30 or float(number) > MAX_NUMBER_IN_TEXT:
                raise invalid(f"arch.{name} with numbers up to {MAX_NUMBER_IN_TEXT:,}", f"{number[:40]} in {source}")
    elif isinstance(value, tuple):
        if len(value) > MAX_VALUES:
            raise invalid(f"arch.{name} of at most {MAX_VALUES:,} values", f"{len(value):,} in {source}")
        for item in value:
            _check_axis(name, item, source)
    elif isinstance(value, int) and abs(value) > MAX_SIZE:
        raise invalid(f"arch.{name} of at most {MAX_SIZE:,}", f"{str(value)[:40]} in {source}")
