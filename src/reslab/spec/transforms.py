"""The transforms: name, arguments with types, ranges and defaults, reference. `data/transforms` applies them."""

import math
from dataclasses import dataclass
from enum import StrEnum

from reslab.spec.plugins import Table

CUSTOM_NAME, TORCHVISION_NAME = "callable", "torchvision"
SCALED = "scaled"
"""Of `decoding`: files may be read at a fraction of their size."""


class TransformKind(StrEnum):
    """The part of a sample that a transform changes."""

    GEOMETRIC = "geometric"
    """The image, and its boxes and masks in the same way."""
    COLOR = "color"
    """The values of pixels; boxes and masks stay."""
    POLICY = "policy"
    """The image alone, also its geometry: an image with boxes or masks is an error."""
    OPEN = "open"
    """What torchvision's transform or the user's function changes."""
    BATCH = "batch"
    """The images of a training batch and their labels; at the end of an expression."""


@dataclass(frozen=True)
class TransformArg:
    """An argument: a number within bounds, or one of `choices`. Without a default it is required."""

    name: str
    summary: str
    value_type: type = int
    minimum: float = 1
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    default: float | str | None = None
    odd: bool = False

    @property
    def type_text(self) -> str:
        """The type for people: `whole number`, `number`, or the choices."""
        if self.choices:
            return " | ".join(self.choices)
        return ("odd " if self.odd else "") + ("whole number" if self.value_type is int else "number")

    @property
    def range_text(self) -> str:
        """The bounds, `from 0 to 1` or `from 1`; empty for choices."""
        if self.choices:
            return ""
        return f"from {self.minimum:g}" + ("" if self.maximum == math.inf else f" to {self.maximum:g}")


@dataclass(frozen=True)
class TransformSpec:
    """A transform: an example, its reference, its arguments.

    The arguments named in `increasing` must not decrease. `other_names` are those of other libraries, which an error
    answers with this one.
    """

    name: str
    kind: TransformKind
    summary: str
    example: str
    reference: str
    args: tuple[TransformArg, ...] = ()
    increasing: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()


def _probability(default: float | None = 0.5) -> TransformArg:
    return TransformArg("probability", "how often it is applied", float, 0, 1, default=default)


_SIZE = TransformArg("size", "side of the output in pixels")
_INTERPOLATION = TransformArg(
    "interpolation", "between pixels", str, choices=("bilinear", "bicubic"), default="bilinear"
)
_AFFINE_INTERPOLATION = TransformArg(
    "interpolation", "between pixels; masks take the nearest", str, choices=("bilinear", "nearest"), default="bilinear"
)
_FILL = TransformArg("fill", "value of the new pixels, of 0..255", int, 0, 255, default=0)
_HE2015 = "He et al. 2015, arXiv:1512.03385, section 4.2"
_CUBUK2018 = "Cubuk et al. 2018, arXiv:1805.09501, Table 6; as torchvision"
_G, _C, _P = TransformKind.GEOMETRIC, TransformKind.COLOR, TransformKind.POLICY

_SPECS = (
    TransformSpec(
        "pad",
        _G,
        "Pad every side: black before normalization, or a reflection without the edge.",
        "pad(4)",
        _HE2015,
        (
            TransformArg("size", "pixels on every side"),
            TransformArg("mode", "what is outside", str, choices=("zero", "reflect"), default="zero"),
        ),
    ),
    TransformSpec(
        "pad-to",
        _G,
        "Pad at the right and at the bottom, up to `size` pixels; larger images stay.",
        "pad-to(256)",
        "torchvision, the reference training of segmentation (pad_if_smaller)",
        (TransformArg("size", "least height and width"), _FILL),
        other_names=("pad-if-needed", "pad-if-smaller", "pad-min-size", "pad-to-size"),
    ),
    TransformSpec(
        "crop",
        _G,
        "Crop a square at a random position.",
        "crop(32)",
        _HE2015,
        (_SIZE,),
        other_names=("random-crop",),
    ),
    TransformSpec(
        "flip",
        _G,
        "Flip left and right.",
        "flip",
        _HE2015,
        (_probability(),),
        other_names=(
            "horizontal-flip",
            "random-horizontal-flip",
            "hflip",
            "fliplr",
            "flip-lr",
            "random-flip",
            "mirror",
        ),
    ),
    TransformSpec(
        "alternating-flip",
        _G,
        "Flip left and right in every second epoch: one half of the images in the even ones, the others in the odd.",
        "alternating-flip",
        "Jordan 2024, arXiv:2404.00498, section 3.6",
        other_names=("alternate-flip", "altflip", "alternating-mirror"),
    ),
    TransformSpec(
        "vertical-flip",
        _G,
        "Flip top and bottom.",
        "vertical-flip",
        "torchvision, RandomVerticalFlip",
        (_probability(),),
        other_names=("random-vertical-flip", "vflip", "flipud", "flip-ud", "flip-vertical"),
    ),
    TransformSpec(
        "resize",
        _G,
        "Resize with antialiasing: the shorter side to `size`, the other in proportion; or to `size` x `width`.",
        "resize(256)",
        "torchvision, Resize",
        (
            TransformArg("size", "the shorter side; with `width` the height"),
            TransformArg("width", "0: in proportion", int, 0, default=0),
            _INTERPOLATION,
        ),
        other_names=("scale", "rescale", "smallest-max-size"),
    ),
    TransformSpec(
        "center-crop",
        _G,
        "Crop the square in the center.",
        "center-crop(224)",
        "torchvision, CenterCrop",
        (_SIZE,),
        other_names=("centre-crop",),
    ),
    TransformSpec(
        "random-resized-crop",
        _G,
        "Crop a box of random position, area and aspect (3/4 to 4/3), and resize it to a square.",
        "random-resized-crop(224)",
        "Szegedy et al. 2014, arXiv:1409.4842, section 6; scale and aspect as torchvision",
        (
            _SIZE,
            TransformArg("min_area", "least share of the image's area", float, 1e-4, 1, default=0.08),
            _INTERPOLATION,
            TransformArg(
                "decoding",
                "scaled: reads a JPEG file at 1/2, 1/4 or 1/8 of its size where the crop stays as large as `size`",
                str,
                choices=("full", SCALED),
                default="full",
            ),
        ),
        other_names=("resized-crop", "random-sized-crop", "rrc", "inception-crop"),
    ),
    TransformSpec(
        "random-resize",
        _G,
        "Resize by a random factor: of the shorter side's `side`, or of the image's own size.",
        "random-resize(0.5,2)",
        "Chen et al. 2017 (DeepLabv3), arXiv:1706.05587, section 4.1; `side` as in torchvision's segmentation training",
        (
            TransformArg("min_scale", "least factor", float, 0.01, 100),
            TransformArg("max_scale", "greatest factor", float, 0.01, 100),
            TransformArg("side", "length of the shorter side at factor 1; 0: the image's own", int, 0, default=0),
        ),
        increasing=("min_scale", "max_scale"),
        other_names=("random-rescale", "resize-range", "random-short-side", "random-shortest-size"),
    ),
    TransformSpec(
        "random-scale-crop",
        _G,
        "Resize the shorter side to a random length, then crop a square at a random position.",
        "random-scale-crop(224,256,480)",
        "Simonyan and Zisserman 2014, arXiv:1409.1556, section 3.1; He et al. 2015, section 3.4",
        (
            _SIZE,
            TransformArg("min_side", "least length of the shorter side"),
            TransformArg("max_side", "greatest length of the shorter side"),
        ),
        increasing=("size", "min_side", "max_side"),
        other_names=("scale-jitter", "random-scale"),
    ),
    TransformSpec(
        "rotate",
        _G,
        "Rotate by a random angle about the center.",
        "rotate(15)",
        "torchvision, RandomRotation",
        (TransformArg("degrees", "greatest angle to either side", float, 0, 180), _AFFINE_INTERPOLATION, _FILL),
        other_names=("rotation", "random-rotation", "random-rotate"),
    ),
    TransformSpec(
        "affine",
        _G,
        "Rotate, shift, scale and shear at random about the center.",
        "affine(10,0.1,0.9,1.1,5)",
        "torchvision, RandomAffine",
        (
            TransformArg("degrees", "greatest angle to either side", float, 0, 180, default=0.0),
            TransformArg("translate", "greatest shift, as a share of width and of height", float, 0, 1, default=0.0),
            TransformArg("min_scale", "least factor", float, 0.01, 100, default=1.0),
            TransformArg("max_scale", "greatest factor", float, 0.01, 100, default=1.0),
            TransformArg("shear", "greatest angle of shear along x, to either side", float, 0, 89, default=0.0),
            _AFFINE_INTERPOLATION,
            _FILL,
        ),
        increasing=("min_scale", "max_scale"),
        other_names=("random-affine", "shift-scale-rotate", "translate", "shear", "random-translation", "random-zoom"),
    ),
    TransformSpec(
        "perspective",
        _G,
        "View the image from a random direction: every corner moves inwards.",
        "perspective(0.5,0.5)",
        "torchvision, RandomPerspective",
        (
            TransformArg("distortion", "greatest move, as a share of half a side", float, 0, 1, default=0.5),
            _probability(),
            _AFFINE_INTERPOLATION,
            _FILL,
        ),
        other_names=("random-perspective",),
    ),
    TransformSpec(
        "elastic",
        _G,
        "Move every pixel by a smooth random field.",
        "elastic(50,5)",
        "Simard, Steinkraus, Platt 2003, section 2; as torchvision, ElasticTransform",
        (
            TransformArg("alpha", "strength of the field, in pixels before smoothing", float, 0, 1e4, default=50.0),
            TransformArg("sigma", "standard deviation of the smoothing, in pixels", float, 0.1, 100, default=5.0),
            _AFFINE_INTERPOLATION,
            _FILL,
        ),
        other_names=("elastic-transform", "random-elastic"),
    ),
    TransformSpec(
        "color-jitter",
        _C,
        "Change brightness, contrast, saturation and hue by random factors, in random order.",
        "color-jitter(0.4,0.4,0.4)",
        "Howard 2013, arXiv:1312.5402; as torchvision, ColorJitter",
        (
            TransformArg("brightness", "factor from max(0, 1 - b) to 1 + b", float, 0, 10),
            TransformArg("contrast", "as brightness", float, 0, 10, default=0.0),
            TransformArg("saturation", "as brightness", float, 0, 10, default=0.0),
            TransformArg("hue", "shift from -h to h of the color circle", float, 0, 0.5, default=0.0),
        ),
        other_names=("jitter", "random-brightness", "brightness", "contrast", "saturation", "hue", "random-contrast"),
    ),
    TransformSpec(
        "lighting",
        _C,
        "Add one random color along the principal components of ImageNet's RGB.",
        "lighting(0.1)",
        "Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs, section 4.1",
        (TransformArg("std", "standard deviation of the draws", float, 0, 1),),
        other_names=("pca-noise", "fancy-pca", "pca-lighting"),
    ),
    TransformSpec(
        "grayscale",
        _C,
        "Replace the color by its luminance in all channels.",
        "grayscale(0.2)",
        "Chen et al. 2020 (SimCLR), arXiv:2002.05709, appendix A; as torchvision, RandomGrayscale",
        (_probability(None),),
        other_names=("gray", "grey", "greyscale", "random-grayscale", "to-gray", "to-grayscale"),
    ),
    TransformSpec(
        "gaussian-blur",
        _C,
        "Blur with a Gaussian kernel of random width.",
        "gaussian-blur(9,0.1,2,0.5)",
        "Chen et al. 2020 (SimCLR), arXiv:2002.05709, appendix A; as torchvision, GaussianBlur",
        (
            TransformArg("kernel_size", "side of the kernel in pixels", int, 1, 999, odd=True),
            TransformArg("min_sigma", "least standard deviation, in pixels", float, 0.01, 1000, default=0.1),
            TransformArg("max_sigma", "greatest standard deviation, in pixels", float, 0.01, 1000, default=2.0),
            _probability(1.0),
        ),
        increasing=("min_sigma", "max_sigma"),
        other_names=("blur", "random-gaussian-blur", "random-blur"),
    ),
    TransformSpec(
        "sharpness",
        _C,
        "Sharpen (a factor above 1) or smooth (below 1).",
        "sharpness(2,0.5)",
        _CUBUK2018,
        (TransformArg("factor", "0: smoothed, 1: unchanged, 2: sharpened", float, 0, 100), _probability()),
        other_names=("sharpen", "random-adjust-sharpness", "adjust-sharpness"),
    ),
    TransformSpec(
        "solarize",
        _C,
        "Invert the values from a threshold on.",
        "solarize(128,0.5)",
        _CUBUK2018,
        (
            TransformArg("threshold", "least value that is inverted, of 0..255", int, 0, 255, default=128),
            _probability(),
        ),
        other_names=("random-solarize",),
    ),
    TransformSpec(
        "posterize",
        _C,
        "Keep the highest bits of every value.",
        "posterize(4,0.5)",
        _CUBUK2018,
        (TransformArg("bits", "bits to keep", int, 0, 8, default=4), _probability()),
        other_names=("random-posterize",),
    ),
    TransformSpec(
        "autocontrast",
        _C,
        "Stretch the values of each channel to the full range.",
        "autocontrast(0.5)",
        _CUBUK2018,
        (_probability(),),
        other_names=("auto-contrast", "random-autocontrast"),
    ),
    TransformSpec(
        "equalize",
        _C,
        "Make the values of each channel equally frequent.",
        "equalize(0.5)",
        _CUBUK2018,
        (_probability(),),
        other_names=("random-equalize", "histogram-equalization"),
    ),
    TransformSpec(
        "invert",
        _C,
        "Replace every value by 255 minus it.",
        "invert(0.5)",
        _CUBUK2018,
        (_probability(),),
        other_names=("random-invert", "negative"),
    ),
    TransformSpec(
        "erase",
        _C,
        "Make a random box black: 2 to 33 % of the area, aspect 0.3 to 3.3.",
        "erase(0.1)",
        "Zhong et al. 2017, arXiv:1708.04896; as torchvision, RandomErasing",
        (_probability(),),
        other_names=("random-erasing", "random-erase", "erasing", "coarse-dropout"),
    ),
    TransformSpec(
        "cutout",
        _C,
        "Fill a square with one value; its center is any pixel of the image.",
        "cutout(16)",
        "DeVries and Taylor 2017, arXiv:1708.04552, section 3",
        (TransformArg("size", "side of the square in pixels"), _FILL),
        other_names=("cut-out", "random-cutout"),
    ),
    TransformSpec(
        "randaugment",
        _P,
        "Apply random operations of 15, each with probability 1/2, in timm's increasing form.",
        "randaugment(9,0.5)",
        "Cubuk et al. 2019, arXiv:1909.13719; as timm, rand-m9-mstd0.5-inc1",
        (
            TransformArg("magnitude", "strength", float, 0, 10, default=9.0),
            TransformArg("std", "standard deviation of the strength", float, 0, 5, default=0.5),
            TransformArg("operations", "operations for an image", default=2),
        ),
        other_names=("rand-augment", "rand-aug"),
    ),
    TransformSpec(
        "randaugment-torchvision",
        _P,
        "Apply random operations of 14, as torchvision does.",
        "randaugment-torchvision(2,9)",
        "Cubuk et al. 2019, arXiv:1909.13719; as torchvision, RandAugment",
        (
            TransformArg("operations", "operations for an image", default=2),
            TransformArg("magnitude", "strength", int, 0, 30, default=9),
        ),
    ),
    TransformSpec(
        "trivial-augment",
        _P,
        "Apply one random operation of 14 at a random strength.",
        "trivial-augment",
        "Müller and Hutter 2021, arXiv:2103.10158; as torchvision, TrivialAugmentWide",
        other_names=("trivial-augment-wide", "trivialaugment", "ta-wide"),
    ),
    TransformSpec(
        "auto-augment",
        _P,
        "Apply one random pair of operations of a learned policy.",
        "auto-augment(imagenet)",
        "Cubuk et al. 2018, arXiv:1805.09501; as torchvision, AutoAugment",
        (
            TransformArg(
                "policy", "the data it was learned on", str, choices=("imagenet", "cifar10", "svhn"), default="imagenet"
            ),
        ),
        other_names=("autoaugment", "auto-aug"),
    ),
    TransformSpec(
        "augmix",
        _P,
        "Mix the image with several chains of random operations on it.",
        "augmix(3,3)",
        "Hendrycks et al. 2019, arXiv:1912.02781; as torchvision, AugMix",
        (
            TransformArg("severity", "strength of the operations", int, 1, 10, default=3),
            TransformArg("width", "chains to mix", int, 1, 20, default=3),
            TransformArg("depth", "operations of a chain, 0: 1 to 3 at random", int, 0, 20, default=0),
            TransformArg(
                "alpha", "of the Beta and Dirichlet distributions of the weights", float, 1e-3, 1e3, default=1.0
            ),
        ),
        other_names=("aug-mix",),
    ),
    TransformSpec(
        TORCHVISION_NAME,
        TransformKind.OPEN,
        "Any transform of torchvision.transforms.v2: its class, then its arguments.",
        "torchvision(RandomApply,[GaussianBlur(9,sigma=[0.1,2])],p=0.3)",
        "torchvision, https://docs.pytorch.org/vision/stable/transforms.html",
    ),
    TransformSpec(
        "mixup",
        TransformKind.BATCH,
        "Mix every image with another of the batch, and their labels.",
        "mixup(0.2)",
        "Zhang et al. 2017, arXiv:1710.09412, Eq. 1",
        (TransformArg("alpha", "of Beta(alpha, alpha), the share of each", float, 1e-3),),
        other_names=("mix-up",),
    ),
    TransformSpec(
        "cutmix",
        TransformKind.BATCH,
        "Paste a random box of another image of the batch, and mix the labels by area.",
        "cutmix(1)",
        "Yun et al. 2019, arXiv:1905.04899, Eq. 1 and 2; lambda corrected as in timm",
        (TransformArg("alpha", "of Beta(alpha, alpha), the share of each", float, 1e-3),),
        other_names=("cut-mix",),
    ),
)
TRANSFORMS: Table[TransformSpec] = Table("transform", {spec.name: spec for spec in _SPECS})
BATCH_NAMES = tuple(spec.name for spec in _SPECS if spec.kind is TransformKind.BATCH)
