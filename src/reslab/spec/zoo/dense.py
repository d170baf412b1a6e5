"""All networks for segmentation and detection by name, and the type of architecture of each kind of network."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.dense import DenseArch, ModelKind
from reslab.spec.detection import DetectionArch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.plugins import Table
from reslab.spec.segmentation import SegmentationArch
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.detection import DETECTION
from reslab.spec.zoo.segmentation import SEGMENTATION

_TABLES: tuple[Mapping[str, DenseArch], ...] = (SEGMENTATION, DETECTION)
DENSE_ARCHS: Table[DenseArch] = Table(
    "model for segmentation or detection",
    {name: replace(arch, name=name) for table in _TABLES for name, arch in table.items()},
    is_saved=False,
)
ARCH_TYPES: dict[ModelKind, type[Arch] | type[DenseArch]] = {
    ModelKind.CLASSIFICATION: Arch,
    ModelKind.SEGMENTATION: SegmentationArch,
    ModelKind.DETECTION: DetectionArch,
}


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
