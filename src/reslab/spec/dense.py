"""Networks for segmentation and detection as data: a backbone and what is on top of it; and the limits of sizes."""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, ClassVar

from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import dilate, stem_stride


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
    return stem_stride(arch) * math.prod(arch.strides)


class Detector(StrEnum):
    """The method of detection."""

    FASTER_RCNN = "faster-rcnn"
    """Region proposals from a feature pyramid, then a head for each region (Ren et al. 2015; Lin et al. 2017)."""
    FASTER_RCNN_C4 = "faster-rcnn-c4"
    """Region proposals from the last stage but one; the last stage is the head of each region (He et al. 2015)."""
    MASK_RCNN = "mask-rcnn"
    """Faster R-CNN on a feature pyramid with a mask for each region (He et al. 2017)."""
    RETINANET = "retinanet"
    """Classes and boxes of all anchors at once, with the focal loss (Lin et al. 2017)."""


class ExtraLevels(StrEnum):
    """Levels of the feature pyramid beyond those of the backbone."""

    POOL = "pool"
    """One: every second position of the last level (Faster R-CNN)."""
    P5 = "p5"
    """Two strided convolutions, from the last level of the pyramid (RetinaNet as in torchvision)."""
    C5 = "c5"
    """Two strided convolutions, from the last map of the backbone (RetinaNet as in its paper)."""


class RoiPool(StrEnum):
    """The method that pools the features of a region to one size."""

    ALIGN = "align"
    """Bilinear sampling (RoIAlign)."""
    MAX = "max"
    """The maximum over each cell of a grid (RoI pooling; Girshick 2015), only for `faster-rcnn-c4`."""


class BoxLoss(StrEnum):
    """The loss of RetinaNet's boxes."""

    L1 = "l1"
    GIOU = "giou"


_PADDING = 32

NUM_EXTRA_LEVELS = {ExtraLevels.POOL: 1, ExtraLevels.P5: 2, ExtraLevels.C5: 2}


@dataclass(frozen=True)
class DetectionArch(DenseArch):
    """The architecture of a detector. See `DenseArch` for backbone, norm and image size.

    * `detector`: a `Detector`. `num_classes` counts the background, class 0, as in torchvision.
    * `trainable_layers`: how many layers of the backbone are trained, from the last stage down, where the stem counts
      as one; None: all. torchvision trains 3 of 5 of a backbone with weights.
    * `min_size`, `max_size`: each image is resized to a shorter side of `min_size`, or if its longer side then exceeds
      `max_size`, to that. `image_mean`, `image_std`: the network itself normalizes images in [0, 1] with them.

    Feature pyramid:

    * `pyramid_stages`: the stages, from 1, whose maps it takes. `pyramid_channels`, `pyramid_norm`: of its layers.
    * `extra_levels`: an `ExtraLevels`.

    Anchors, for each position:

    * `anchor_sizes`: the side of the square of an anchor's area in pixels, one for each level, or all on one map for
      `faster-rcnn-c4`. `anchor_scales`: sizes an octave (RetinaNet: 3). `anchor_ratios`: height divided by width.

    Heads:

    * `rpn_convs`: 3x3 convolutions of the proposal head. `box_convs`: 3x3 convolutions ahead of one linear layer of the
      box head; 0: two linear layers. `head_norm`: of box, mask and RetinaNet heads. `box_loss`: a `BoxLoss`.
    * `roi_pool`, `roi_size`: a `RoiPool`, and its output's side.

    Training and selection:

    * `proposals_before_nms`, `proposals`: the most proposals in training and evaluation, before and after suppression.
    * `rpn_batch_size`, `roi_batch_size`: anchors and proposals sampled from an image for the losses.
    * `score_threshold`, `nms_threshold`, `max_detections`: detections of a lower score are dropped, those that overlap
      one of a higher score by more are suppressed, and the best are kept.
    """

    num_classes: int = 91
    image_size: tuple[int, int] = (800, 800)
    detector: str = Detector.FASTER_RCNN
    trainable_layers: int | None = None
    min_size: int = 800
    max_size: int = 1333
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    pyramid_stages: tuple[int, ...] = (1, 2, 3, 4)
    pyramid_channels: int = 256
    pyramid_norm: str = "none"
    extra_levels: str = ExtraLevels.POOL
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_scales: int = 1
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_convs: int = 1
    box_convs: int = 0
    head_norm: str = "none"
    box_loss: str = BoxLoss.L1
    roi_pool: str = RoiPool.ALIGN
    roi_size: int = 7
    proposals_before_nms: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    rpn_batch_size: int = 256
    roi_batch_size: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100

    num_background: ClassVar[int] = 1
    resizes_images: ClassVar[bool] = True

    @property
    def kind(self) -> ModelKind:
        """The kind of the network's predictions."""
        return ModelKind.DETECTION

    def size_axes(self, size: int) -> dict[str, Any]:
        """Return a shorter side of `size`, and the longest in the same ratio as before."""
        return {"min_size": size, "max_size": round(size * self.max_size / self.min_size)}

    def normalization_axes(self, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
        """Return the mean and standard deviation of each channel."""
        return {"image_mean": mean, "image_std": std}

    def smallest_input(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of an image whose shorter side has become `min_size`."""
        return (size[0], self.min_size, self.min_size)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of what the backbone gets of one image: resized, and padded to multiples of 32."""
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        rows, columns = (-(-int(side * scale) // _PADDING) * _PADDING for side in (height, width))
        return rows, columns

    @property
    def backbone_arch(self) -> Arch:
        """The backbone with the norm of this architecture. Raises ValueError for wrong values."""
        arch = super().backbone_arch
        for axis, kinds in _CHOICES.items():
            if getattr(self, axis) not in list(kinds):
                raise unknown_name(axis, getattr(self, axis), list(kinds))
        self._check_sizes()
        self._check_backbone(arch)
        return arch

    @property
    def level_sizes(self) -> tuple[tuple[int, ...], ...]:
        """The sizes of the anchors of each level: for each of `anchor_sizes`, `anchor_scales` to the next octave."""
        octaves = [2 ** (i / self.anchor_scales) for i in range(self.anchor_scales)]
        sizes = tuple(tuple(int(size * octave) for octave in octaves) for size in self.anchor_sizes)
        return (sum(sizes, ()),) if self.detector == Detector.FASTER_RCNN_C4 else sizes

    def _check_sizes(self) -> None:
        positive = {
            "anchor_sizes": self.anchor_sizes,
            "anchor_ratios": self.anchor_ratios,
            "image_std": self.image_std,
            "proposals": (*self.proposals_before_nms, *self.proposals),
        }
        for axis in ("pyramid_channels", "anchor_scales", "rpn_convs", "roi_size", "max_detections", "min_size"):
            positive[axis] = (getattr(self, axis),)
        for axis, values in positive.items():
            if not values or min(values) <= 0:
                raise invalid(f"{axis} of numbers above 0", values)
        if self.max_size < self.min_size:
            raise invalid(f"max_size from min_size={self.min_size}", self.max_size, f"max_size={self.min_size}")
        if {len(self.image_mean), len(self.image_std)} != {self.in_channels}:
            got = f"{len(self.image_mean)} and {len(self.image_std)} with in_channels={self.in_channels}"
            halves = ",".join(["0.5"] * self.in_channels)
            nearest = f"image_mean={halves} image_std={halves}"
            raise invalid("image_mean and image_std with a value for each channel", got, nearest)
        if self.roi_pool == RoiPool.MAX and self.detector != Detector.FASTER_RCNN_C4:
            raise invalid(f"roi_pool=align with {self.detector}", self.roi_pool, "roi_pool=align")

    def _check_backbone(self, arch: Arch) -> None:
        num_stages = len(arch.depths)
        if self.trainable_layers is not None and not 0 <= self.trainable_layers <= num_stages + 1:
            required = f"trainable_layers from 0 to {num_stages + 1}, the stages of {arch.name} and its stem"
            raise invalid(required, self.trainable_layers, f"trainable_layers={num_stages + 1}")
        if self.detector == Detector.FASTER_RCNN_C4:
            if num_stages < 2:
                raise invalid("a backbone with two stages or more", f"{arch.name} with {num_stages}", "resnet50")
            return
        stages = self.pyramid_stages
        if not stages or list(stages) != sorted({stage for stage in stages if 1 <= stage <= num_stages}):
            suggestion = ",".join(str(stage) for stage in range(1, num_stages + 1))
            required = f"pyramid_stages in order, from 1 to {num_stages}, the stages of {arch.name}"
            raise invalid(required, stages, f"pyramid_stages={suggestion}")
        num_levels = len(stages) + NUM_EXTRA_LEVELS[ExtraLevels(self.extra_levels)]
        if len(self.anchor_sizes) != num_levels:
            sizes = ",".join(str(32 << level) for level in range(num_levels))
            required = f"anchor_sizes with {num_levels} values, one for each level of the pyramid"
            raise invalid(required, self.anchor_sizes, f"anchor_sizes={sizes}")


_CHOICES: dict[str, type[StrEnum]] = {
    "detector": Detector,
    "extra_levels": ExtraLevels,
    "roi_pool": RoiPool,
    "box_loss": BoxLoss,
}


ARCH_TYPES: dict[ModelKind, type[Arch] | type[DenseArch]] = {
    ModelKind.CLASSIFICATION: Arch,
    ModelKind.SEGMENTATION: SegmentationArch,
    ModelKind.DETECTION: DetectionArch,
}
"""The type of architecture of each kind of network."""

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
