"""Published weights of torchvision and timm: tags, URLs, preprocessing and class names."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from reslab.nn.checkpoints.download import weights_unavailable
from reslab.spec.errors import invalid, nearest, unknown_name
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.resolve import TORCHVISION_NAMES, find_model_name

_MMPRETRAIN_TAG = re.compile(r"\d+xb\d+")
TIMM_INSTALL_HINT = "pip install 'reslab[timm]'"

_INTERPOLATIONS = ("bilinear", "bicubic")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of the network `arch`: a `url`, whose file name contains the start of its SHA-256, or a hub `repo`."""

    arch: str
    tag: str
    url: str = ""
    repo: str = ""
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    messages: tuple[str, ...] = ()

    @property
    def hash_prefix(self) -> str:
        """The first digits of the SHA-256 in the file's name; empty if it has none."""
        digits = Path(urlparse(self.url).path).stem.rpartition("-")[2]
        return digits if len(digits) >= 8 and set(digits) <= set("0123456789abcdef") else ""


def has_timm() -> bool:
    """Return whether the extra `timm` is installed."""
    return importlib.util.find_spec("timm") is not None


def torchvision_tags(name: str) -> list[str]:
    """Return the tags of torchvision's weights for this network."""
    return [weights.name for weights in _torchvision_enum(name)] if _is_in_torchvision(name) else []


def torchvision_name(name: str) -> str:
    """Return torchvision's name for the network `name`, which is the same for most."""
    return TORCHVISION_NAMES.get(name, name)


def _torchvision_enum(name: str) -> Any:
    """Return torchvision's enum of the weights of a network; it is imported here, because that takes a second."""
    from torchvision.models import get_model_weights

    return get_model_weights(torchvision_name(name))


def _is_in_torchvision(name: str) -> bool:
    from torchvision.models import list_models

    return torchvision_name(name) in list_models()


def timm_tags(name: str) -> list[str]:
    """Return the tags of timm's weights for this network, the default first; empty without the extra."""
    if not has_timm():
        return []
    import timm
    from timm.models import get_pretrained_cfg

    tags = [full_name.partition(".")[2] for full_name in timm.list_pretrained(f"{name}.*")]
    cfg = get_pretrained_cfg(name) if tags else None
    default = cfg.tag if cfg else ""
    return sorted(tags, key=lambda tag: (tag != default, tag))


def list_published_tags(name: str) -> list[str]:
    """Return the tags of all published weights for this network, the default of each source first."""
    return torchvision_tags(name) + timm_tags(name)


def find_published_weights(name: str, tag: str | bool | Enum = True) -> PublishedWeights:
    """Return the weights with this tag for the network `name`; True: torchvision's default, or else timm's.

    A tag is one of torchvision's (`IMAGENET1K_V2`, also as `ResNet50_Weights.IMAGENET1K_V2`), or one of timm's
    (`a1_in1k`, also as `timm/resnet50.a1_in1k`). Raises WeightsUnavailableError if none are published or the extra is
    not installed, ValueError for an unknown tag or one of another network.
    """
    if tag is True or tag == "DEFAULT":
        return _default_weights(name)
    tag = _normalize_tag(name, tag)
    if tag in torchvision_tags(name):
        return _torchvision_weights(name, tag)
    if tag in timm_tags(name):
        return _timm_weights(name, tag)
    if not has_timm() and not tag.isupper() and not _MMPRETRAIN_TAG.search(tag):
        required = f"the extra timm for weights of the tag {tag!r}"
        raise weights_unavailable(required, "an installation without it", next_step=TIMM_INSTALL_HINT)
    step = "or give a file"
    if _MMPRETRAIN_TAG.search(tag):
        step = "mmpretrain publishes these weights: download its file and give pretrained='PATH' (--pretrained PATH)"
    raise unknown_name(f"weights of {name}", tag, list_published_tags(name), step)


def _normalize_tag(name: str, tag: str | bool | Enum) -> str:
    """Return the tag alone. Raises ValueError if it names another network."""
    text = f"{type(tag).__name__}.{tag.name}" if isinstance(tag, Enum) else str(tag)
    text = text.removeprefix("timm/")
    prefix, dot, rest = text.partition(".")
    if not dot:
        return text
    named = find_model_name(text)
    if prefix.endswith("_Weights") and _is_in_torchvision(name):
        weights_class = _torchvision_enum(name).__name__
        if prefix != weights_class:
            raise invalid(f"weights of {name}: {weights_class}", text, f"{weights_class}.DEFAULT")
        return _torchvision_enum(name)["DEFAULT"].name if rest == "DEFAULT" else rest
    if named is None or named.arch != name:
        step = f"create_model({named.arch!r}, pretrained={tag!r})" if named else ""
        raise invalid(f"weights of {name}", text, next_step=step)
    return named.weights


def _default_weights(name: str) -> PublishedWeights:
    if torchvision_tags(name):
        return _torchvision_weights(name, _torchvision_enum(name)["DEFAULT"].name)
    if tags := timm_tags(name):
        return _timm_weights(name, tags[0])
    available = [other for other in ARCHS if torchvision_tags(other)]
    if not has_timm():
        step = f"{TIMM_INSTALL_HINT} adds timm's weights (of resnet50d, resnetv2_50, seresnet50 and others)"
    else:
        available += [other for other in ARCHS if other not in available and timm_tags(other)]
        step = "pretrained=FILE loads your own weights"
    suggestions = nearest(name, available) or available[:3]
    raise weights_unavailable("a network with published weights", name, ", ".join(suggestions), step)


def _torchvision_weights(name: str, tag: str) -> PublishedWeights:
    weights = _torchvision_enum(name)[tag]
    preprocess = _torchvision_preprocess(weights.transforms())
    return PublishedWeights(name, tag, weights.url, preprocess=preprocess, classes=tuple(weights.meta["categories"]))


def _torchvision_preprocess(transforms: Any) -> Preprocess:
    """Return the preprocessing of a preset; that of segmentation crops nothing, that of detection only scales."""
    steps = []
    if resize_size := getattr(transforms, "resize_size", None):
        steps.append(resize_expression((resize_size[0],), transforms.interpolation.value))
    if crop_size := getattr(transforms, "crop_size", None):
        steps.append(f"center-crop({crop_size[0]})")
    mean, std = getattr(transforms, "mean", (0.0, 0.0, 0.0)), getattr(transforms, "std", (1.0, 1.0, 1.0))
    return Preprocess(3, " ".join(steps), tuple(mean), tuple(std))


def _timm_weights(name: str, tag: str) -> PublishedWeights:
    from timm.models import get_pretrained_cfg

    pretrained_cfg = get_pretrained_cfg(f"{name}.{tag}")
    assert pretrained_cfg is not None, (name, tag)
    cfg = pretrained_cfg.to_dict()
    preprocess, messages = timm_preprocess(cfg)
    url, repo = cfg.get("url") or "", cfg.get("hf_hub_id") or ""
    published = PublishedWeights(name, tag, url, repo, preprocess, timm_classes(cfg), messages)
    # A file without a hash in its name cannot be verified; the hub gives the hash of its files.
    return published if published.hash_prefix or not repo else replace(published, url="")


def timm_preprocess(cfg: Mapping[str, Any]) -> tuple[Preprocess, tuple[str, ...]]:
    """Return the preprocessing of timm's `pretrained_cfg`, and messages about parts that cannot be reproduced.

    As `timm.data.create_transform(**resolve_data_config(pretrained_cfg=cfg))`: `crop_mode` "center" resizes the shorter
    side, "squash" both sides; values that are missing or null are timm's defaults.
    """
    channels, height, width = cfg.get("input_size") or (3, 224, 224)
    crop_pct = cfg.get("crop_pct") or 0.875
    crop_mode, interpolation = cfg.get("crop_mode") or "center", cfg.get("interpolation") or "bicubic"
    mean, std = cfg.get("mean") or _IMAGENET_MEAN, cfg.get("std") or _IMAGENET_STD
    messages = []
    if crop_mode not in ("center", "squash") or height != width:
        messages.append(f"timm crops {height} x {width} by {crop_mode}, reslab a square by center: scores differ")
        crop_mode = "center"
    if interpolation not in _INTERPOLATIONS:
        messages.append(f"timm resizes with {interpolation} interpolation, reslab with bicubic: scores differ slightly")
        interpolation = "bicubic"
    resized = int(width / crop_pct)
    sides = (resized, resized) if crop_mode == "squash" else (resized,)
    transform = f"{resize_expression(sides, interpolation)} center-crop({width})"
    return Preprocess(channels, transform, tuple(mean), tuple(std)), tuple(messages)


def resize_expression(sides: tuple[int, ...], interpolation: str) -> str:
    """Return `resize(...)` of the shorter side or of height and width; bilinear, the default, is not written."""
    args = [str(side) for side in sides] + ([] if interpolation == "bilinear" else [interpolation])
    return f"resize({','.join(args)})"


def timm_classes(cfg: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names of timm's `pretrained_cfg`: its own, or torchvision's names of the ImageNet classes.

    None if it has neither.
    """
    names = cfg.get("label_names")
    if names:
        return tuple(map(str, names))
    if cfg.get("num_classes") == 1000 and "in1k" in str(cfg.get("tag", "")):
        return tuple(_torchvision_enum("resnet18")["IMAGENET1K_V1"].meta["categories"])
    return None
