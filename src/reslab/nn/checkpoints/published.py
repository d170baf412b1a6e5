"""Which weights are published for a network, where they lie, and which preprocessing and class names belong to them."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torchvision.models import get_model_weights
from torchvision.models import list_models as list_torchvision

from reslab.nn.checkpoints.download import WeightsUnavailable
from reslab.spec.errors import nearest, refuse, unknown
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS

EXTRA = "pip install 'reslab[timm]'"


@dataclass(frozen=True)
class Published:
    """Weights of the network `arch`: a `url` whose file name holds the first digits of its SHA-256, or a `repo` of the
    hub."""

    arch: str
    tag: str
    url: str = ""
    repo: str = ""
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def hash_prefix(self) -> str:
        """The first digits of the SHA-256, as the file's name holds them; empty where it holds none."""
        digits = Path(urlparse(self.url).path).stem.rpartition("-")[2]
        return digits if len(digits) >= 8 and set(digits) <= set("0123456789abcdef") else ""


def has_timm() -> bool:
    """Whether the extra `timm` is installed."""
    return importlib.util.find_spec("timm") is not None


def torchvision_tags(name: str) -> list[str]:
    """The tags of torchvision's weights for a network of this name; empty where it has none."""
    return [member.name for member in get_model_weights(name)] if name in list_torchvision() else []


def timm_tags(name: str) -> list[str]:
    """The tags of timm's weights for a network of this name, the default first; empty without the extra."""
    if not has_timm():
        return []
    import timm
    from timm.models import get_pretrained_cfg

    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    facts = get_pretrained_cfg(name) if tags else None
    default = facts.tag if facts else ""
    return sorted(tags, key=lambda tag: (tag != default, tag))


def list_published(name: str) -> list[str]:
    """The tags of all weights published for a network of this name, the default of each source first."""
    return torchvision_tags(name) + timm_tags(name)


def find_published(name: str, tag: str | bool | Enum = True) -> Published:
    """The weights of this tag for the network `name`; True is the newest of torchvision's, else the default of timm's.

    A tag is one of torchvision's (`IMAGENET1K_V2`, also as `ResNet50_Weights.IMAGENET1K_V2`), or one of timm's
    (`a1_in1k`, also as `timm/resnet50.a1_in1k`). Raises WeightsUnavailable where none are published or the extra is
    missing, ValueError for an unknown tag or one of another network.
    """
    if tag is True or tag == "DEFAULT":
        return _default(name)
    tag = _own_tag(name, tag)
    if tag in torchvision_tags(name):
        return _of_torchvision(name, tag)
    if tag in timm_tags(name):
        return _of_timm(name, tag)
    if not has_timm() and not tag.isupper():
        required = f"the extra timm for weights of the tag {tag!r}"
        raise WeightsUnavailable(str(refuse(required, "an installation without it", next_step=EXTRA)))
    raise unknown(f"weights of {name}", tag, list_published(name), "or give a file")


def _own_tag(name: str, tag: str | bool | Enum) -> str:
    """The tag alone; ValueError where it names another network."""
    text = f"{type(tag).__name__}.{tag.name}" if isinstance(tag, Enum) else str(tag)
    text = text.removeprefix("timm/")
    owner, dot, rest = text.partition(".")
    if not dot:
        return text
    if owner.endswith("_Weights") and name in list_torchvision():
        own = get_model_weights(name).__name__
        if owner != own:
            raise refuse(f"weights of {name}: {own}", text, f"{own}.DEFAULT")
        return get_model_weights(name)["DEFAULT"].name if rest == "DEFAULT" else rest
    if owner != name:
        step = f"create_model({owner!r}, pretrained={tag!r})" if owner in ARCHS else ""
        raise refuse(f"weights of {name}", text, next_step=step)
    return rest


def _default(name: str) -> Published:
    if torchvision_tags(name):
        return _of_torchvision(name, get_model_weights(name)["DEFAULT"].name)
    if tags := timm_tags(name):
        return _of_timm(name, tags[0])
    having = [other for other in ARCHS if torchvision_tags(other)]
    if not has_timm():
        step = f"{EXTRA} brings timm's weights (of resnet50d, resnetv2_50, seresnet50 and others)"
    else:
        having += [other for other in ARCHS if other not in having and timm_tags(other)]
        step = "pretrained=FILE loads your own"
    near = nearest(name, having) or having[:3]
    raise WeightsUnavailable(str(refuse("a network with published weights", name, ", ".join(near), step)))


def _of_torchvision(name: str, tag: str) -> Published:
    weights = get_model_weights(name)[tag]
    given = weights.transforms()
    words = f"resize({given.resize_size[0]}) center-crop({given.crop_size[0]})"
    preprocess = Preprocess(3, words, tuple(given.mean), tuple(given.std))
    return Published(name, tag, weights.url, preprocess=preprocess, classes=tuple(weights.meta["categories"]))


def _of_timm(name: str, tag: str) -> Published:
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(f"{name}.{tag}")
    assert found is not None, (name, tag)
    facts = found.to_dict()
    preprocess, notes = timm_preprocess(facts)
    url, repo = facts.get("url") or "", facts.get("hf_hub_id") or ""
    published = Published(name, tag, url, repo, preprocess, timm_classes(facts), notes)
    # Without a hash in its name a file cannot be checked; the hub tells the hash of its own.
    return published if published.hash_prefix or not repo else replace(published, url="")


def timm_preprocess(facts: Mapping[str, Any]) -> tuple[Preprocess, tuple[str, ...]]:
    """The preprocessing that timm's `pretrained_cfg` tells, and what of it our words do not say."""
    channels, *sides = facts["input_size"]
    size = int(sides[-1])
    words = f"resize({int(size / facts.get('crop_pct', 0.875))}) center-crop({size})"
    notes = []
    if facts.get("interpolation", "bilinear") != "bilinear":
        notes.append(
            f"timm resizes these pictures {facts['interpolation']}, here it is bilinear: scores differ a little"
        )
    return Preprocess(channels, words, tuple(facts["mean"]), tuple(facts["std"])), tuple(notes)


def timm_classes(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names of timm's `pretrained_cfg`: its own, or ImageNet's thousand in torchvision's words; None where it
    has neither."""
    names = facts.get("label_names")
    if names:
        return tuple(map(str, names))
    if facts.get("num_classes") == 1000 and "in1k" in str(facts.get("tag", "")):
        return tuple(get_model_weights("resnet18")["IMAGENET1K_V1"].meta["categories"])
    return None
