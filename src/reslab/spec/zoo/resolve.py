"""Find the architecture of a name or a TOML file, and override its axes by name.

Known are also the names that torchvision, timm, mmpretrain and the Hugging Face hub give to the networks of the zoo.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.spec.arch import Arch
from reslab.spec.config import base_of, convert, described, is_toml, override, read_toml
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.layout import dilation_requirement
from reslab.spec.library_options import LIBRARY_OPTIONS, apply_options
from reslab.spec.zoo import ARCHS

HUB_PREFIX = "hf-hub:"

# torchvision's name of a network that has another one here.
TORCHVISION_NAMES: dict[str, str] = {
    "regnetx_004_tv": "regnet_x_400mf",
    "regnetx_008": "regnet_x_800mf",
    "regnetx_016": "regnet_x_1_6gf",
    "regnetx_032": "regnet_x_3_2gf",
    "regnetx_080": "regnet_x_8gf",
    "regnetx_160": "regnet_x_16gf",
    "regnetx_320": "regnet_x_32gf",
    "regnety_004": "regnet_y_400mf",
    "regnety_008_tv": "regnet_y_800mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
    "regnety_080_tv": "regnet_y_8gf",
    "regnety_160": "regnet_y_16gf",
    "regnety_320": "regnet_y_32gf",
    "regnety_1280": "regnet_y_128gf",
}
# Repositories of the hub that do not have the name of a network of timm.
_HUB_REPOS = {f"microsoft/resnet-{depth}": f"resnet{depth}" for depth in (18, 26, 34, 50, 101, 152)}
# (pattern, name, tag of the weights) of timm's former names and of the papers' abbreviations.
_OTHER_NAMES: tuple[tuple[str, str, str], ...] = (
    (r"wrn[-_]?(50|101)[-_]2", r"wide_resnet\1_2", ""),
    (r"wrn[-_]?(\d+)[-_](\d+)", r"wrn\1_\2_cifar", ""),
    (r"wide_?resnet_?(50|101)", r"wide_resnet\1_2", ""),
    (r"tv_(\w+)", r"\1", "tv_in1k"),
    (r"gluon_resnet(\d+)_v1b", r"resnet\1", "gluon_in1k"),
    (r"gluon_resnet(\d+)_v1([cds])", r"resnet\1\2", "gluon_in1k"),
    (r"gluon_(\w+)", r"\1", "gluon_in1k"),
    (r"ssl_(\w+)", r"\1", "fb_ssl_yfcc100m_ft_in1k"),
    (r"swsl_(\w+)", r"\1", "fb_swsl_ig1b_ft_in1k"),
    (r"(resnetv2_\d+x\d)_bitm", r"\1_bit", "goog_in21k_ft_in1k"),
    (r"(resnetv2_\d+x\d)_bitm_in21k", r"\1_bit", "goog_in21k"),
    (r"se_(resnet|resnext)(\w+)", r"legacy_se\1\2", ""),
)
# mmpretrain: NETWORK[_SOURCE]_GPUSxbBATCH_DATASET, such as resnet50_8xb32_in1k; it names weights too.
_MMPRETRAIN = re.compile(r"(?P<network>[\w.-]+?)_(?P<tag>(?:\w+[-_])*?\d+xb\d+\S*)")
_MMPRETRAIN_NAMES: tuple[tuple[str, str], ...] = (
    (r"resnetv1([cd])(\d+)", r"resnet\2\1"),
    (r"(se-)?resnext(\d+)-(\w+)", r"\1resnext\2_\3"),
    (r"convnext-v2-(\w+)", r"convnextv2_\1"),
    (r"wide-resnet(\d+)", r"wide_resnet\1_2"),
    (r"resnest(\d+)", r"resnest\1d"),
    (r"res2net(\d+)-w(\d+)-s(\d+)", r"res2net\1_\2w_\3s"),
)


@dataclass(frozen=True)
class ModelName:
    """A name of a network: `arch`, its name in the zoo, and the weights that the name includes, as `pretrained=` takes.

    `weights` is empty if the name includes none.
    """

    arch: str
    weights: str = ""


def parse_model_name(name: str) -> ModelName:
    """Return the zoo's network of a name, and the weights that it includes (`resnet50.a1_in1k`).

    Case, hyphens and underscores do not matter. Raises ValueError for an unknown name, with the nearest ones.
    """
    model_name = find_model_name(name)
    if model_name is None:
        raise unknown_model(name)
    return model_name


def find_model_name(name: str) -> ModelName | None:
    """Return the zoo's network of a name, and the weights that it includes; None for an unknown name."""
    if name in ARCHS:
        return ModelName(name)
    text = name.strip()
    for prefix in (HUB_PREFIX, "hf_hub:", "https://huggingface.co/"):
        text = text.removeprefix(prefix)
    if text in _HUB_REPOS:
        return ModelName(_HUB_REPOS[text], HUB_PREFIX + text)
    text = text.removeprefix("timm/").removeprefix("torchvision/")
    network, _, tag = text.partition(".")
    if arch := _NAMES.get(_simplify(network.removesuffix("_Weights"))):
        return ModelName(arch, tag)
    for pattern, template, weights in _OTHER_NAMES:
        match = re.fullmatch(pattern, network.lower())
        if match and (arch := _NAMES.get(_simplify(match.expand(template)))):
            return ModelName(arch, tag or weights)
    return _find_mmpretrain(text.lower())


def _find_mmpretrain(name: str) -> ModelName | None:
    match = _MMPRETRAIN.fullmatch(name)
    if match is None:
        return None
    network, tag = match["network"], match["tag"]
    if "cifar" in tag:
        return ModelName("resnet18_cifar", tag) if network == "resnet18" else None
    if regnet := re.fullmatch(r"regnet([xy])-([\d.]+)([mg])f", network):
        size = round(float(regnet[2]) * (10 if regnet[3] == "g" else 0.01))
        network = f"regnet{regnet[1]}_{size:03d}"
    for pattern, template in _MMPRETRAIN_NAMES:
        if parts := re.fullmatch(pattern, network):
            network = parts.expand(template)
    arch = _NAMES.get(_simplify(network))
    return ModelName(arch, tag) if arch else None


def unknown_model(name: str, known_names: Iterable[str] = ARCHS) -> ValueError:
    """Return the error for an unknown name, with the nearest known ones, and with the CIFAR network of that depth."""
    step = "`reslab models` lists them all"
    simple = _simplify(name)
    if cifar := _NAMES.get(f"{simple}cifar"):
        step = f"{cifar} is the network of this depth for images of 32 pixels (CIFAR); {step}"
        return unknown_name("model", name, [cifar], step)
    mmpretrain = _MMPRETRAIN.fullmatch(name.lower())
    if mmpretrain and "cifar" in mmpretrain["tag"] and (model_name := find_model_name(mmpretrain["network"])):
        axes = {"stem": "conv3(64) norm act", "image_size": (32, 32), "num_classes": 10}
        step = f"{model_name.arch} with {', '.join(f'{axis}={value!r}' for axis, value in axes.items())}; {step}"
        return unknown_name("model", name, [model_name.arch], step)
    return unknown_name("model", name, known_names, step)


def arch_of_file_name(stem: str) -> str | None:
    """Return the zoo's network that a file of torchvision or timm is named after; None if there is none.

    `resnet50-0676ba61`, `resnet50_a1_0-14fe96d1` and `resnet50.a1_in1k` are of resnet50. Such a name ends with digits
    of a hash, has a tag, or is a network's name in full.
    """
    text, hyphen, digits = stem.partition(".")[0].rpartition("-")
    has_hash = bool(hyphen) and re.fullmatch(r"[0-9a-f]{8,}", digits) is not None
    if not has_hash:
        model_name = find_model_name(stem)
        return model_name.arch if model_name else None
    while text:
        if model_name := find_model_name(text):
            return model_name.arch
        text = text.rpartition("_")[0]
    return None


def _simplify(name: str) -> str:
    """Return the name in lower case, with separators only between two digits, as underscores."""
    return re.sub(r"[-_ ]+", "_", re.sub(r"(?<!\d)[-_ ]+|[-_ ]+(?!\d)", "", name.lower()))


_NAMES: dict[str, str] = {_simplify(name): name for name in ARCHS}
_NAMES |= {_simplify(other): name for name, other in TORCHVISION_NAMES.items()}


AXIS_ALIASES = {"in_chans": "in_channels"}
"""Names that timm gives to axes of ours."""

_DILATION = "replace_stride_with_dilation"


def find_arch(name: str | Path, level: int = 0) -> Arch:
    """Return the architecture of a name or a TOML file; a file without `base` has at least `depths` and `widths`.

    A base is a name or a file, relative to the folder of the file that names it; `level` counts the files on the way.
    Raises ValueError for an unknown name or key, with the nearest ones, and for a file that is none.
    """
    if not is_toml(name):
        if str(name) not in ARCHS:
            raise unknown_name("model", str(name), ARCHS, "`reslab models` lists them all")
        return ARCHS[str(name)]
    path, table = read_toml(name, level)
    base_name = table.pop("base", None)
    if base_name is None and not {"depths", "widths"} <= table.keys():
        raise invalid(f"base, or depths and widths, in {path}", ", ".join(table) or "no keys", 'base = "resnet50"')
    base = Arch("", "", (), ()) if base_name is None else find_arch(base_of(path, base_name), level + 1)
    return override(base, described(path, base.name) | table, kind=f"key of {path}, an axis,")


def get_arch(model: str | Path | Arch) -> Arch:
    """Return the architecture of this name or TOML file, or the given one.

    torchvision's, timm's, mmpretrain's and the hub's names are known (`reslab.spec.zoo.resolve`). Raises ValueError for
    an unknown name, with the nearest ones.
    """
    if isinstance(model, Arch):
        return model
    if not isinstance(model, str | Path):
        raise invalid("a name, a TOML file or an Arch as model", f"a {type(model).__name__}")
    return find_arch(model if is_toml(model) else parse_model_name(str(model)).arch)


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
