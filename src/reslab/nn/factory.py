"""Networks by name."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from reslab.nn.features import FeatureNetwork
from reslab.nn.layers import NormLayer
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import convert, override
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import dilation_requirement
from reslab.spec.zoo import ARCHS, match_model_names

# What torchvision and timm call an axis of ours.
_ALIASES = {"in_chans": "in_channels"}
_DILATION = "replace_stride_with_dilation"


def list_models(pattern: str = "*") -> list[str]:
    """The names of the zoo that match a shell pattern (`resnet*_cifar`), or hold it where it has no `*`; sorted."""
    return sorted(match_model_names(pattern))


def resolve_arch(model: str | Arch, axes: Mapping[str, Any]) -> Arch:
    """The architecture of this name with axes overridden by name; ValueError with the nearest names where one is
    unknown."""
    if isinstance(model, str) and model not in ARCHS:
        raise unknown_name("model", model, ARCHS, "`reslab models` lists them all")
    arch = ARCHS[model] if isinstance(model, str) else model
    for alias, axis in _ALIASES.items():
        if alias in axes and axes.get(axis, axes[alias]) != axes[alias]:
            raise invalid(f"{axis} or {alias}, two names of one axis", f"{axis}={axes[axis]} and {alias}={axes[alias]}")
    if "weights" in axes:
        raise invalid(
            "pretrained=, which takes torchvision's weights too", f"weights={axes['weights']!r}", "pretrained=True"
        )
    overrides = {_ALIASES.get(alias, alias): value for alias, value in axes.items()}
    if _DILATION in overrides:
        overrides[_DILATION] = _parse_dilation(overrides[_DILATION], len(arch.depths))
    if convert(bool, overrides.pop("zero_init_residual", False), "zero_init_residual"):
        overrides["last_norm_weight"] = 0.0
    return override(arch, overrides, kind="axis")


def _parse_dilation(value: Any, num_stages: int) -> tuple[bool, ...]:
    """Truth values, or None for nowhere, as torchvision says it; an error names the stages they are for."""
    try:
        return convert(tuple[bool, ...], () if value is None else value, _DILATION)
    except ValueError:
        raise invalid(dilation_requirement(num_stages), value, str((False,) * (num_stages - 1))) from None


def create_model(
    model: str | Arch,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    pretrained: bool | str | Path | Mapping[str, Tensor] | Enum | None = False,
    strict: bool = True,
    features_only: bool = False,
    out_indices: tuple[int, ...] | None = None,
    norm_layer: NormLayer | None = None,
    **axes: Any,
) -> ResidualNetwork | FeatureNetwork:
    """A network by name or from an `Arch`, with fresh or published weights; any axis is overridden by name.

    `create_model("resnet20_cifar", order="bn-after-add", merge="shortcut-gate(-6)", shortcut="pad-split")`. `pretrained` is
    a file, a state dict, True, or a tag such as `IMAGENET1K_V2`, `a1_in1k` or `hf-hub:org/name`; a new `num_classes` or
    `in_channels` then adapts the head or the first convolution, and `strict=False` goes on half-loaded (see
    `reslab.nn.checkpoints.pretrained`; the network's `loaded` tells which entries matched). `features_only=True`
    gives the outputs of stem and stages (`out_indices`) in place of logits.
    torchvision's options are axes too: `groups`, `width_per_group`, `replace_stride_with_dilation`,
    `zero_init_residual`; `norm_layer` is a callable taking the number of channels. Raises ValueError for an unknown
    name or axis, and for a combination that means nothing.
    """
    overrides = dict(axes)
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if in_channels is not None:
        overrides["in_channels"] = in_channels
    arch = resolve_arch(model, overrides)
    network = ResidualNetwork(arch, norm_layer)
    if pretrained is not None and pretrained is not False:
        from reslab.nn.checkpoints.pretrained import changed_io_sizes, load_pretrained

        changed = {_ALIASES.get(axis, axis) for axis in overrides}
        load_pretrained(
            network, pretrained, adapt=changed_io_sizes(arch, changed), strict=strict, ignore_head=features_only
        )
    if features_only:
        return FeatureNetwork(network, out_indices)
    if out_indices is not None:
        raise invalid("features_only=True with out_indices", "features_only=False", "features_only=True")
    return network
