"""What `pretrained` may be: a file, a state dict, published weights by tag, or a repository of the hub."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path

from torch import Tensor

from reslab.nn.adapting import adapt_preprocess
from reslab.nn.checkpoint import Checkpoint, read_checkpoint, unwrap_checkpoint
from reslab.nn.checkpoints.download import fetch
from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.load_report import LoadReport
from reslab.nn.checkpoints.pretrained import PREFIX, fetch_from_hub, find_on_hub
from reslab.nn.checkpoints.published import Published, find_published
from reslab.nn.implied import other_axes, warn_of_axes
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS

Pretrained = bool | str | Path | Mapping[str, Tensor] | Enum

_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".pkl")


def asked_anew(arch: Arch, given: Collection[str]) -> tuple[str, ...]:
    """Of num_classes and in_channels, those `given` by name, or other than the zoo has them for this network."""
    known = ARCHS.get(arch.name, arch)
    return tuple(
        axis for axis in ("num_classes", "in_channels") if axis in given or getattr(arch, axis) != getattr(known, axis)
    )


def load_pretrained(
    network: Network,
    source: Pretrained,
    *,
    adapt: Collection[str] = (),
    strict: bool = True,
    headless: bool = False,
) -> LoadReport:
    """Load a file, a state dict, published weights (True or a tag) or `hf-hub:org/name` into a network;
    `network.loaded` is the report.

    Published weights, and files that reslab saved, bring their preprocessing and class names along. See
    `load_checkpoint` for `adapt`, `strict` and `headless`. Raises CheckpointError for a file that is no checkpoint or
    does not fit, FileNotFoundError, WeightsUnavailable where published weights cannot be had, ValueError for an unknown
    tag.
    """
    if isinstance(source, Mapping):
        return load_checkpoint(
            network, unwrap_checkpoint("the state dict", source), adapt=adapt, strict=strict, headless=headless
        )
    if isinstance(source, str | Path) and is_file(source):
        checkpoint = read_checkpoint(source)
        published = _from_header(checkpoint)
    else:
        published = find(network.arch.name, source)
        checkpoint = fetch_published(published)
    checkpoint = replace(checkpoint, notes=(*checkpoint.notes, *published.notes))
    implied = from_dict(Arch, checkpoint.header["arch"]) if checkpoint.header.get("arch") else ARCHS.get(published.arch)
    told = []
    if implied is not None and (axes := other_axes(network.arch, implied)):
        told.append(warn_of_axes(network.arch, axes, f"{checkpoint.name} holds weights of {implied.name}"))
    report = load_checkpoint(network, checkpoint, adapt=adapt, strict=strict, headless=headless, told=told)
    _describe(network, published, report)
    return report


def is_file(source: str | Path) -> bool:
    """Whether this names a file or folder (there or not), and not a tag of published weights."""
    if isinstance(source, Path) or Path(source).exists():
        return True
    if source.startswith((PREFIX, "timm/")):
        return False
    return source.endswith(_ENDINGS) or os.sep in source


def find(name: str, source: bool | str | Path | Enum) -> Published:
    """The published weights that `source` names for the network `name`."""
    if isinstance(source, str) and source.startswith(PREFIX):
        return find_on_hub(name, source.removeprefix(PREFIX))
    assert not isinstance(source, Path)
    return find_published(name, source)


def fetch_published(published: Published) -> Checkpoint:
    """The checkpoint of published weights, fetched into the cache where it is not there."""
    what = f"the weights {published.tag} of {published.arch}"
    path = fetch(published.url, published.hash_prefix, what) if published.url else fetch_from_hub(published.repo)
    name = path.name if published.url else published.repo
    return replace(read_checkpoint(path), name=name)


def _from_header(checkpoint: Checkpoint) -> Published:
    """What reslab wrote beside the weights, where it did."""
    classes, preprocess = (checkpoint.header.get(key) for key in ("classes", "preprocess"))
    return Published(
        "",
        checkpoint.name,
        preprocess=from_dict(Preprocess, preprocess) if preprocess else None,
        classes=tuple(classes) if classes else None,
    )


def _describe(network: Network, published: Published, report: LoadReport) -> None:
    """Preprocessing and class names that belong to the weights; no names for a fresh head."""
    if published.preprocess is not None:
        network.preprocess = adapt_preprocess(published.preprocess, network.arch.in_channels)
    if published.classes and not report.fresh and len(published.classes) == network.arch.num_classes:
        network.classes = published.classes
