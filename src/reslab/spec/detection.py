"""A network for object detection as data: a residual backbone, a feature pyramid, anchors, and torchvision's heads."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from reslab.spec.arch import Arch
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.errors import invalid, unknown_name


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
