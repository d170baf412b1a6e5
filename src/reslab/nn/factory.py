"""Networks by name."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from reslab.nn.features import FeatureNetwork
from reslab.nn.layers import NormLayer
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.config import convert, override
from reslab.spec.errors import refuse, unknown
from reslab.spec.layout import dilation_required
from reslab.spec.zoo import ARCHS, match_names

# What torchvision and timm call an axis of ours.
_FAMILIAR = {"in_chans": "in_channels", "drop_rate": "drop"}
_DILATION = "replace_stride_with_dilation"


def list_models(pattern: str = "*") -> list[str]:
    """The names of the zoo that match a shell pattern (`resnet*_cifar`), or hold it where it has no `*`; sorted."""
    return sorted(match_names(pattern))


def resolve_arch(model: str | Arch, axes: Mapping[str, Any]) -> Arch:
    """The architecture of this name with axes overridden by name; ValueError with the nearest names where one is
    unknown."""
    if isinstance(model, str) and model not in ARCHS:
        raise unknown("model", model, ARCHS, "`reslab models` lists them all")
    arch = ARCHS[model] if isinstance(model, str) else model
    for name, own in _FAMILIAR.items():
        if name in axes and axes.get(own, axes[name]) != axes[name]:
            raise refuse(f"{own} or {name}, two names of one axis", f"{own}={axes[own]} and {name}={axes[name]}")
    if "weights" in axes:
        raise refuse(
            "pretrained=, which takes torchvision's weights too", f"weights={axes['weights']!r}", "pretrained=True"
        )
    settings = {_FAMILIAR.get(name, name): value for name, value in axes.items()}
    if _DILATION in settings:
        settings[_DILATION] = _read_dilation(settings[_DILATION], len(arch.depths))
    if convert(bool, settings.pop("zero_init_residual", False), "zero_init_residual"):
        settings["last_norm_weight"] = 0.0
    return override(arch, settings, kind="axis")


def _read_dilation(given: Any, num_stages: int) -> tuple[bool, ...]:
    """Truth values, or None for nowhere, as torchvision says it; an error names the stages they are for."""
    try:
        return convert(tuple[bool, ...], () if given is None else given, _DILATION)
    except ValueError:
        raise refuse(dilation_required(num_stages), given, str((False,) * (num_stages - 1))) from None


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
) -> Network | FeatureNetwork:
    """A network by name or from an `Arch`, with fresh or published weights; any axis is overridden by name.

    `create_model("resnet20_cifar", order="bn-after-add", mix="shortcut-gate(-6)", match="pad-split")`. `pretrained` is
    a file, a state dict, True, or a tag such as `IMAGENET1K_V2`, `a1_in1k` or `hf-hub:org/name`; a new `num_classes` or
    `in_channels` then adapts the head or the first convolution, and `strict=False` goes on half-loaded (see
    `reslab.nn.checkpoints.pretrained`; the network's `loaded` tells which entries matched). `features_only=True`
    gives the outputs of stem and stages (`out_indices`) in place of logits.
    torchvision's options are axes too: `groups`, `width_per_group`, `replace_stride_with_dilation`,
    `zero_init_residual`; `norm_layer` is a callable taking the number of channels. Raises ValueError for an unknown
    name or axis, and for a combination that means nothing.
    """
    settings = dict(axes)
    if num_classes is not None:
        settings["num_classes"] = num_classes
    if in_channels is not None:
        settings["in_channels"] = in_channels
    arch = resolve_arch(model, settings)
    network = Network(arch, norm_layer)
    if pretrained is not None and pretrained is not False:
        from reslab.nn.checkpoints.pretrained import asked_anew, load_pretrained

        given = {_FAMILIAR.get(name, name) for name in settings}
        load_pretrained(network, pretrained, adapt=asked_anew(arch, given), strict=strict, headless=features_only)
    if features_only:
        return FeatureNetwork(network, out_indices)
    if out_indices is not None:
        raise refuse("features_only=True with out_indices", "features_only=False", "features_only=True")
    return network
