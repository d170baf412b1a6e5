"""Find the architecture of a name, and override its axes by name."""

from collections.abc import Mapping
from typing import Any

from reslab.spec.arch import Arch
from reslab.spec.config import convert, override
from reslab.spec.errors import invalid
from reslab.spec.layout import dilation_requirement
from reslab.spec.library_options import LIBRARY_OPTIONS, apply_options
from reslab.spec.toml_files import find_arch, is_toml
from reslab.spec.zoo.names import parse_model_name

AXIS_ALIASES = {"in_chans": "in_channels"}
"""Names that timm gives to axes of ours."""

_DILATION = "replace_stride_with_dilation"


def get_arch(model: str | Arch) -> Arch:
    """Return the architecture of this name or TOML file, or the given one.

    torchvision's, timm's, mmpretrain's and the hub's names are known (`reslab.spec.zoo.names`). Raises ValueError for
    an unknown name, with the nearest ones.
    """
    if isinstance(model, Arch):
        return model
    return find_arch(model if is_toml(model) else parse_model_name(model).arch)


def resolve_arch(model: str | Arch, overrides: Mapping[str, Any]) -> Arch:
    """Return the architecture of this name (or the given one) with axes overridden by name.

    Values may be strings, as on the command line; torchvision's and timm's names for an axis are accepted. Raises
    ValueError for an unknown model, axis or value, with the nearest ones.
    """
    arch = get_arch(model)
    if not overrides:
        return arch
    axes = _normalize_axes(overrides, len(arch.depths), arch.image_size[0])
    options = {name: axes.pop(name) for name in LIBRARY_OPTIONS if name in axes}
    return apply_options(override(arch, axes, kind="axis"), options)


def _normalize_axes(overrides: Mapping[str, Any], num_stages: int, side: int) -> dict[str, Any]:
    """Return the overrides under our names, with torchvision's options translated.

    `dims` without an image size keeps the `side` in every dimension.
    """
    for alias, axis in AXIS_ALIASES.items():
        if alias in overrides and overrides.get(axis, overrides[alias]) != overrides[alias]:
            got = f"{axis}={overrides[axis]} and {alias}={overrides[alias]}"
            raise invalid(f"{axis} or {alias}, two names of one axis", got)
    if "weights" in overrides:
        got = f"weights={overrides['weights']!r}"
        raise invalid("pretrained=, which takes torchvision's weights too", got, "pretrained=True")
    axes = {AXIS_ALIASES.get(name, name): value for name, value in overrides.items()}
    if "dims" in axes and "image_size" not in axes:
        axes["image_size"] = (side,) * convert(int, axes["dims"], "dims")
    if _DILATION in axes:
        axes[_DILATION] = _parse_dilation(axes[_DILATION], num_stages)
    if convert(bool, axes.pop("zero_init_residual", False), "zero_init_residual"):
        axes["last_norm_weight"] = 0.0
    return axes


def _parse_dilation(value: Any, num_stages: int) -> tuple[bool, ...]:
    """Return the truth values; torchvision's None means no dilation. The error names the stages they are for."""
    try:
        return convert(tuple[bool, ...], () if value is None else value, _DILATION)
    except ValueError:
        raise invalid(dilation_requirement(num_stages), value, str((False,) * (num_stages - 1))) from None
