"""All networks for segmentation and detection by name.

The detectors are torchvision's, that of He et al. 2015, and small ones for small images.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from reslab.spec.arch import Arch
from reslab.spec.config import from_dict, is_toml, override
from reslab.spec.dense import (
    ARCH_TYPES,
    BoxLoss,
    Decoder,
    DenseArch,
    DetectionArch,
    Detector,
    ExtraLevels,
    ModelKind,
    RoiPool,
    SegmentationArch,
    own_stride,
)
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.plugins import Table
from reslab.spec.task import TargetKind, find_task
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.resolve import AXIS_ALIASES, find_model_name, get_arch, resolve_arch, unknown_model

DenseArchT = TypeVar("DenseArchT", bound=DenseArch)

# Options that `resolve_arch` translates to axes.
_BACKBONE_OPTIONS = (*AXIS_ALIASES, "zero_init_residual")

_TORCHVISION_DETECTION = "torchvision models/detection"
_FASTER_RCNN_FPN = "Lin et al. 2017, arXiv:1612.03144, Sec. 4.2"
_LI2021 = "Li et al. 2021, arXiv:2111.11429"

_FASTER_RCNN = DetectionArch("", f"{_FASTER_RCNN_FPN}; {_TORCHVISION_DETECTION}/faster_rcnn.py", ARCHS["resnet50"])
_MASK_RCNN = replace(
    _FASTER_RCNN,
    reference=f"He et al. 2017, arXiv:1703.06870, Fig. 4 (right); {_TORCHVISION_DETECTION}/mask_rcnn.py",
    detector=Detector.MASK_RCNN,
)
_RETINANET = replace(
    _FASTER_RCNN,
    reference=f"Lin et al. 2017, arXiv:1708.02002; {_TORCHVISION_DETECTION}/retinanet.py",
    detector=Detector.RETINANET,
    pyramid_stages=(2, 3, 4),
    extra_levels=ExtraLevels.P5,
    anchor_scales=3,
    max_detections=300,
)
_V2: dict[str, Any] = {"pyramid_norm": "batch", "rpn_convs": 2, "box_convs": 4, "head_norm": "batch"}
_C4 = replace(
    _FASTER_RCNN,
    reference="He et al. 2015, arXiv:1512.03385, Appendix A: RoI pooling ahead of conv5_x, fixed batch norm",
    detector=Detector.FASTER_RCNN_C4,
    norm="frozen",
    anchor_sizes=(128, 256, 512),
    roi_pool=RoiPool.MAX,
    roi_size=14,
    min_size=600,
    max_size=1000,
    proposals_before_nms=(12000, 6000),
    proposals=(2000, 300),
)
# For images of a few hundred pixels, with anchors from 12 pixels.
_SMALL: dict[str, Any] = {
    "backbone": ARCHS["resnet18"],
    "min_size": 320,
    "max_size": 320,
    "image_size": (320, 320),
    "pyramid_channels": 64,
    "proposals_before_nms": (1000, 500),
    "proposals": (500, 200),
    "roi_batch_size": 128,
}

DETECTION: dict[str, DetectionArch] = {
    "fasterrcnn_resnet50_fpn": _FASTER_RCNN,
    "fasterrcnn_resnet50_fpn_v2": replace(
        _FASTER_RCNN, reference=f"{_LI2021}; {_TORCHVISION_DETECTION}/faster_rcnn.py", **_V2
    ),
    "fasterrcnn_resnet101_fpn": replace(_FASTER_RCNN, reference=_FASTER_RCNN_FPN, backbone=ARCHS["resnet101"]),
    "maskrcnn_resnet50_fpn": _MASK_RCNN,
    "maskrcnn_resnet50_fpn_v2": replace(
        _MASK_RCNN, reference=f"{_LI2021}; {_TORCHVISION_DETECTION}/mask_rcnn.py", **_V2
    ),
    "retinanet_resnet50_fpn": _RETINANET,
    "retinanet_resnet50_fpn_v2": replace(
        _RETINANET,
        reference=f"Zhang et al. 2020, arXiv:1912.02424; {_TORCHVISION_DETECTION}/retinanet.py",
        extra_levels=ExtraLevels.C5,
        head_norm="group(32)",
        box_loss=BoxLoss.GIOU,
    ),
    "fasterrcnn_resnet50_c4": _C4,
    "fasterrcnn_resnet101_c4": replace(_C4, backbone=ARCHS["resnet101"]),
    "fasterrcnn_resnet18_fpn_320": replace(
        _FASTER_RCNN, reference=_FASTER_RCNN_FPN, anchor_sizes=(12, 24, 48, 96, 192), **_SMALL
    ),
    "maskrcnn_resnet18_fpn_320": replace(
        _MASK_RCNN,
        reference="He et al. 2017, arXiv:1703.06870, Fig. 4 (right)",
        anchor_sizes=(12, 24, 48, 96, 192),
        **_SMALL,
    ),
    "retinanet_resnet18_fpn_320": replace(
        _RETINANET,
        reference="Lin et al. 2017, arXiv:1708.02002",
        anchor_sizes=(12, 24, 48, 96, 192),
        head_norm="group(32)",  # without it the losses of a head from random weights jump at a learning rate of 5e-4
        max_detections=100,
        **_SMALL,
    ),
    "fasterrcnn_resnet18_c4_320": replace(_C4, norm="", anchor_sizes=(12, 24, 48, 96, 192), **_SMALL),
}

_FROZEN = {"norm": "frozen", "norm_eps": 0.0}
PUBLISHED_AXES: dict[str, Mapping[str, Any]] = {
    "fasterrcnn_resnet50_fpn": _FROZEN,
    "maskrcnn_resnet50_fpn": _FROZEN,
    "retinanet_resnet50_fpn": _FROZEN,
}
"""The axes with which torchvision's published weights of a name were trained (its `overwrite_eps`)."""


_TORCHVISION = "torchvision models/segmentation"
LONG2015 = "Long, Shelhamer and Darrell 2015, arXiv:1411.4038"
_CHEN2017 = "Chen et al. 2017, arXiv:1706.05587"
_RONNEBERGER2015 = "Ronneberger, Fischer and Brox 2015, arXiv:1505.04597"

_FCN = SegmentationArch(
    "",
    f"{LONG2015}; {_TORCHVISION}/fcn.py",
    ARCHS["resnet50"],
    aux=True,
    output_stride=8,
    image_size=(520, 520),
)
_DEEPLABV3 = replace(_FCN, reference=f"{_CHEN2017}; {_TORCHVISION}/deeplabv3.py", decoder=Decoder.DEEPLABV3)
_UNET = SegmentationArch("", _RONNEBERGER2015, ARCHS["resnet18"], decoder=Decoder.UNET, image_size=(256, 256))
_FCN_CIFAR = SegmentationArch("", LONG2015, ARCHS["resnet20_cifar"], output_stride=2, image_size=(32, 32))

SEGMENTATION: dict[str, SegmentationArch] = {
    "fcn_resnet50": _FCN,
    "fcn_resnet101": replace(_FCN, backbone=ARCHS["resnet101"]),
    "deeplabv3_resnet50": _DEEPLABV3,
    "deeplabv3_resnet101": replace(_DEEPLABV3, backbone=ARCHS["resnet101"]),
    "unet_resnet18": _UNET,
    "unet_resnet34": replace(_UNET, backbone=ARCHS["resnet34"]),
    "unet_resnet50": replace(_UNET, backbone=ARCHS["resnet50"]),
    "fcn_resnet20_cifar": _FCN_CIFAR,
    "deeplabv3_resnet20_cifar": replace(
        _FCN_CIFAR, reference=_CHEN2017, decoder=Decoder.DEEPLABV3, atrous_rates=(2, 4, 6)
    ),
    "unet_resnet20_cifar": replace(
        _FCN_CIFAR, reference=_RONNEBERGER2015, decoder=Decoder.UNET, output_stride=None, decoder_channels=64
    ),
}

_TABLES: tuple[Mapping[str, DenseArch], ...] = (SEGMENTATION, DETECTION)
DENSE_ARCHS: Table[DenseArch] = Table(
    "model for segmentation or detection",
    {name: replace(arch, name=name) for table in _TABLES for name, arch in table.items()},
    is_saved=False,
)
KIND_OF_TARGET = {TargetKind.MASK: ModelKind.SEGMENTATION, TargetKind.BOXES: ModelKind.DETECTION}
"""The kind of the networks that predict targets of a form; others are predicted by networks for classification."""


def register_dense_arch(name: str, arch: DenseArch) -> DenseArch:
    """Register an architecture for segmentation or detection, usually `replace(another, ...)`; return it.

    Raises ValueError for a name that is taken, and for a backbone that cannot be built.
    """
    arch = replace(arch, name=name)
    if name in ARCHS:
        raise invalid("a new name for a model", f"{name!r}, a network of the zoo", f"'my-{name}'")
    assert arch.backbone_arch
    DENSE_ARCHS.register(name, arch)
    return arch


def find_dense_arch(model: object) -> DenseArch | None:
    """Return the architecture for segmentation or detection of this name, or the given one; None for another model.

    Case, and hyphens for underscores, do not matter.
    """
    if isinstance(model, DenseArch):
        return model
    if not isinstance(model, str):
        return None
    name = model.strip().removeprefix("torchvision/").lower().replace("-", "_")
    return DENSE_ARCHS.get(model) or DENSE_ARCHS.get(name)


def model_names(task: str | None = None) -> list[str]:
    """Return the names of all networks; with a task, of those that can be trained for it, its own kind first.

    A network for classification can be trained for every task: others take it as the backbone.
    """
    kind = None if task is None else KIND_OF_TARGET.get(find_task(task).target, ModelKind.CLASSIFICATION)
    return [*(name for name, arch in DENSE_ARCHS.items() if kind in (None, arch.kind)), *ARCHS]


def require_model(model: object, task: str | None = None) -> None:
    """Raise ValueError for a text that names no network, with the nearest names; with a task, those for it."""
    is_other = not isinstance(model, str) or is_toml(model) or find_dense_arch(model) is not None
    if not is_other and find_model_name(str(model)) is None:
        raise unknown_model(str(model), model_names(task))


def _default_segmentation(backbone: Arch, image_size: tuple[int, int], axes: Mapping[str, Any]) -> SegmentationArch:
    """Return FCN on a backbone, whose stride beyond 16, of images below 256 pixels beyond 8, becomes dilation.

    `axes` are applied later; a decoder among them is in the name.
    """
    stride = own_stride(backbone)
    largest = _LARGE_IMAGE_STRIDE if min(image_size) >= _LARGE_IMAGE_SIDE else _SMALL_IMAGE_STRIDE
    output_stride = largest if stride > largest else None
    name = f"{axes.get('decoder', 'fcn')}_{backbone.name}"
    return SegmentationArch(name, LONG2015, backbone, output_stride=output_stride)


_LARGE_IMAGE_SIDE, _LARGE_IMAGE_STRIDE, _SMALL_IMAGE_STRIDE = 256, 16, 8


def _default_detection(backbone: Arch, image_size: tuple[int, int], axes: Mapping[str, Any]) -> DetectionArch:
    """Return a detector for images of 320 pixels on a backbone: Faster R-CNN, or that of the axis `detector`.

    Its pyramid takes the last stages, up to four, for RetinaNet three; the anchors double from level to level.
    """
    name = _SMALL_DETECTORS.get(axes.get("detector", Detector.FASTER_RCNN), _SMALL_DETECTORS[Detector.FASTER_RCNN])
    base = replace(DETECTION[name], name=name.replace("resnet18", backbone.name), backbone=backbone)
    if base.detector == Detector.FASTER_RCNN_C4:
        return base
    num_stages = min(len(base.pyramid_stages), len(backbone.depths))
    stages = tuple(range(len(backbone.depths) - num_stages + 1, len(backbone.depths) + 1))
    num_levels = num_stages + len(base.anchor_sizes) - len(base.pyramid_stages)
    return replace(base, pyramid_stages=stages, anchor_sizes=base.anchor_sizes[:num_levels])


_SMALL_DETECTORS = {
    Detector.FASTER_RCNN: "fasterrcnn_resnet18_fpn_320",
    Detector.FASTER_RCNN_C4: "fasterrcnn_resnet18_c4_320",
    Detector.MASK_RCNN: "maskrcnn_resnet18_fpn_320",
    Detector.RETINANET: "retinanet_resnet18_fpn_320",
}
_DEFAULT_HEADS: dict[ModelKind, Callable[[Arch, tuple[int, int], Mapping[str, Any]], DenseArch]] = {
    ModelKind.SEGMENTATION: _default_segmentation,
    ModelKind.DETECTION: _default_detection,
}


def dense_arch_for(
    kind: ModelKind, model: str | Arch | DenseArch, image_size: tuple[int, int], axes: Mapping[str, Any]
) -> DenseArch | None:
    """Return the architecture of a network of this kind: the named one, or the default head on the named backbone.

    `axes` are the ones that the user overrides, which are not applied here. None for classification. Raises ValueError
    for a network of another kind, and an unknown name.
    """
    arch = find_dense_arch(model)
    if arch is not None and arch.kind != kind:
        got = f"{arch.name}, a network for {arch.kind}"
        raise invalid(f"a network for {kind}", got, arch.backbone.name)
    if kind not in _DEFAULT_HEADS or isinstance(arch, DenseArch):
        return arch
    assert not isinstance(model, DenseArch)
    return _DEFAULT_HEADS[kind](get_arch(model), image_size, axes)


def has_dense_axes(overrides: Mapping[str, Any]) -> bool:
    """Return True if an override is of a head (`decoder`), or is said to be of the backbone (`backbone.order`)."""
    axes = {field.name for arch_type in ARCH_TYPES.values() if arch_type is not Arch for field in fields(arch_type)}
    own_axes = axes - {field.name for field in fields(Arch)}
    return any(key in own_axes or key.startswith("backbone.") for key in overrides)


def match_all_names(pattern: str, kind: ModelKind | str | None = None) -> list[str]:
    """Return the names of models of all kinds, or of one, that match a shell pattern, or contain it without a wildcard.

    Raises ValueError for an unknown kind.
    """
    if kind is not None and kind not in list(ModelKind):
        raise unknown_name("kind of model", kind, list(ModelKind))
    wildcard = pattern if any(char in pattern for char in "*?[") else f"*{pattern}*"
    tables: tuple[Mapping[str, Arch | DenseArch], ...] = (ARCHS, DENSE_ARCHS)
    return [
        name
        for table in tables
        for name, arch in table.items()
        if fnmatchcase(name, wildcard) and kind in (None, arch_kind(arch))
    ]


def arch_kind(arch: Arch | DenseArch) -> ModelKind:
    """Return what a network of this architecture predicts."""
    return arch.kind if isinstance(arch, DenseArch) else ModelKind.CLASSIFICATION


def arch_from_dict(data: Mapping[str, Any], kind: str | None = None) -> Arch | DenseArch:
    """Return the architecture that `to_dict` wrote, of this kind; None: classification.

    Raises ValueError for an unknown kind or field.
    """
    if kind is not None and kind not in list(ModelKind):
        raise unknown_name("kind of model", kind, list(ModelKind))
    return from_dict(ARCH_TYPES[ModelKind(kind or ModelKind.CLASSIFICATION)], data)


def override_dense_arch(arch: DenseArchT, overrides: Mapping[str, Any]) -> DenseArchT:
    """Return the architecture with axes overridden by name: its own, and those of its backbone.

    `backbone` is a name or an `Arch`. Values may be strings, as on the command line. Raises ValueError for an unknown
    axis or value, with the nearest ones.
    """
    own_axes = [field.name for field in fields(arch) if field.name != "backbone"]
    backbone_axes = [field.name for field in fields(Arch) if field.name not in own_axes]
    own, of_backbone = dict[str, Any](), dict[str, Any]()
    for key, value in overrides.items():
        axis = key.removeprefix("backbone.")
        if key in own_axes:
            own[key] = value
        elif axis in (*backbone_axes, *_BACKBONE_OPTIONS) or (axis != key and axis in own_axes):
            of_backbone[axis] = value
        elif key != "backbone":
            raise unknown_name("axis", key, [*own_axes, "backbone", *backbone_axes])
    backbone = arch.backbone
    if "backbone" in overrides:
        given = get_arch(overrides["backbone"])
        backbone = replace(given, in_channels=backbone.in_channels) if isinstance(overrides["backbone"], str) else given
    return override(replace(arch, backbone=resolve_arch(backbone, of_backbone)), own, kind="axis")
