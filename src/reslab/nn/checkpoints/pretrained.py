"""Load `pretrained=`: a file, a state dict, published weights by tag, or a Hugging Face hub repository.

The hub is used through the packages of the extra `timm`, with the hub's own cache.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from torch import Tensor

from reslab.nn.checkpoints.diagnose import WeightsOrigin
from reslab.nn.checkpoints.foreign_formats import CONTAINERS
from reslab.nn.checkpoints.load import adapt_preprocess, load_checkpoint, read_limits
from reslab.nn.checkpoints.load_report import LoadReport, invalid_checkpoint
from reslab.nn.checkpoints.published import (
    TIMEOUT_SECONDS,
    TIMM_INSTALL_HINT,
    PublishedWeights,
    fetch_weights,
    file_hash,
    find_published_weights,
    list_published_tags,
    resize_expression,
    timm_classes,
    timm_preprocess,
    weights_unavailable,
)
from reslab.nn.checkpoints.read import KEY_PREFIXES, Checkpoint, read_checkpoint, unwrap_checkpoint
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import from_dict
from reslab.spec.errors import invalid
from reslab.spec.plugins import check_plugins
from reslab.spec.preprocess import Preprocess
from reslab.spec.zoo import ARCHS
from reslab.spec.zoo.dense import arch_from_dict
from reslab.spec.zoo.resolve import HUB_PREFIX, arch_of_file_name, find_model_name

_HUB_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_MIN_UNCROPPED_SIDE = 384
_PIL_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC


def fetch_from_hub(repo: str) -> Path:
    """Return the path of a hub repository's weights, downloaded if needed; check the SHA-256 if the hub gives one.

    The cache is the hub's own, shared with timm and transformers; `HF_ENDPOINT` names a mirror. Raises
    WeightsUnavailableError if the file cannot be downloaded or the extra is not installed, and CheckpointError if the
    hash differs.
    """
    reasons = []
    for name in _HUB_WEIGHT_FILES:
        try:
            path = hub_file(repo, name)
        except OSError as error:
            reasons.append(str(error).strip().split("\n")[0])
            if isinstance(error, ConnectionError):
                break
            continue
        _check_blob_hash(path)
        return path
    url = f"{_hub_endpoint()}/{repo}/resolve/main/{_HUB_WEIGHT_FILES[0]}"
    required = f"an internet connection to download the weights of {repo}, or the file in the hub's cache"
    step = f"download {url} elsewhere and give its path: pretrained='PATH/{_HUB_WEIGHT_FILES[0]}'"
    raise weights_unavailable(required, f"{repo} cannot be read ({reasons[0]})", next_step=step)


def _hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_file(repo: str, name: str) -> Path:
    """Return the path of one file of a repository, from the cache or else from the hub.

    Raises WeightsUnavailableError without the extra, ConnectionError if the hub is unreachable, OSError if it has no
    such file.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        required = f"the extra timm for weights of the Hugging Face hub ({repo})"
        raise weights_unavailable(required, "an installation without it", next_step=TIMM_INSTALL_HINT) from error
    try:
        with suppress(Exception):
            return Path(hf_hub_download(repo, name, local_files_only=True))
        _check_hub_reachable()
        return Path(hf_hub_download(repo, name, endpoint=_hub_endpoint()))
    except ConnectionError:
        raise
    except Exception as error:  # the hub, its HTTP client and the sockets raise errors without a common class
        raise OSError(f"{name} of {repo}: {error}") from error


def _check_hub_reachable() -> None:
    """Raise ConnectionError if the hub is unreachable, within seconds; its own client retries for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    try:
        urlopen(_hub_endpoint(), timeout=TIMEOUT_SECONDS).close()
    except HTTPError as error:
        error.close()
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{_hub_endpoint()}: {error}") from error


def _check_blob_hash(path: Path) -> None:
    """Check a file against its SHA-256, under which the hub's cache stores large files."""
    blob = path.resolve()
    if len(blob.name) == 64 and (actual_hash := file_hash(blob)) != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        got = f"{path} with {actual_hash[:16]}..."
        raise invalid_checkpoint(f"a file with the SHA-256 {blob.name}", got, next_step="it was removed; try again")


def find_hub_weights(repo: str) -> PublishedWeights:
    """Return a hub repository's weights with the network, preprocessing and class names of its `config.json`.

    timm's and transformers' forms of the file are understood.
    """
    fetch_from_hub(repo)  # first, so that an unreachable hub gives one error
    config = _read_hub_json(repo, "config.json")
    preprocessor = _read_hub_json(repo, "preprocessor_config.json") if "id2label" in config else {}
    return weights_from_config(HUB_PREFIX + repo, config, preprocessor, repo)


def weights_from_config(
    name: str, config: Mapping[str, Any], preprocessor: Mapping[str, Any], repo: str = ""
) -> PublishedWeights:
    """Return weights with what `config.json` and `preprocessor_config.json` beside them say.

    The network's name is empty if they name none, and as they spell it if the zoo has no such network.
    """
    messages: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    if "pretrained_cfg" in config:
        cfg = {
            "num_classes": config.get("num_classes"),
            "label_names": config.get("label_names"),
            **config["pretrained_cfg"],
        }
        preprocess, messages = timm_preprocess(cfg)
        classes = timm_classes(cfg)
    elif "id2label" in config:
        classes = tuple(name for _, name in sorted((int(key), name) for key, name in config["id2label"].items()))
        preprocess = _transformers_preprocess(preprocessor)
    if preprocess is None:
        messages = (*messages, f"{name} defines no preprocessing: give mean and std yourself")
    return PublishedWeights(
        _arch_of_config(config), name, repo=repo, preprocess=preprocess, classes=classes, messages=messages
    )


def _arch_of_config(config: Mapping[str, Any]) -> str:
    """Return the zoo's network that a `config.json` describes, or its own name of it; empty if it has none."""
    if architecture := config.get("architecture"):
        known = find_model_name(str(architecture))
        return known.arch if known else str(architecture)
    if config.get("model_type") != "resnet":
        return ""
    base = ARCHS["resnet50" if config.get("layer_type") == "bottleneck" else "resnet18"]
    stride_conv = 1 if config.get("downsample_in_bottleneck") else 0
    plain = replace(base, depths=tuple(config.get("depths", ())), stride_conv=stride_conv)
    axes = ("depths", "convs", "stride_conv", "order", "stem", "shortcut", "merge", "norm", "groups", "width_per_group")
    same = [name for name, arch in ARCHS.items() if all(getattr(arch, axis) == getattr(plain, axis) for axis in axes)]
    return same[0] if same else ""


def _read_hub_json(repo: str, name: str) -> Mapping[str, Any]:
    try:
        return _read_json(hub_file(repo, name))
    except OSError:
        return {}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _transformers_preprocess(config: Mapping[str, Any]) -> Preprocess | None:
    """Return the preprocessing of transformers' ConvNextImageProcessor, which its ResNets use; None if it is none.

    A `shortest_edge` from 384 on is not cropped: both sides are resized to it.
    """
    size = config.get("size")
    side = size.get("shortest_edge") or size.get("height") if isinstance(size, dict) else size
    if not side or "image_mean" not in config or "image_std" not in config:
        return None
    interpolation = "bicubic" if config.get("resample") == _PIL_BICUBIC else "bilinear"
    if side >= _MIN_UNCROPPED_SIDE:
        transform = resize_expression((side, side), interpolation)
    else:
        resize = resize_expression((int(side / config.get("crop_pct", 0.875)),), interpolation)
        transform = f"{resize} center-crop({side})"
    return Preprocess(3, transform, tuple(config["image_mean"]), tuple(config["image_std"]))


Pretrained = bool | str | Path | Mapping[str, Tensor] | Enum

_FILE_SUFFIXES = tuple(suffix for container in CONTAINERS for suffix in container.suffixes)


def changed_io_sizes(arch: Arch, explicit_axes: Collection[str]) -> tuple[str, ...]:
    """Return those of num_classes and in_channels that were given explicitly or differ from the zoo's network."""
    zoo_arch = ARCHS.get(arch.name, arch)
    return tuple(
        axis
        for axis in ("num_classes", "in_channels")
        if axis in explicit_axes or getattr(arch, axis) != getattr(zoo_arch, axis)
    )


def load_pretrained(
    network: ResidualNetwork,
    source: Pretrained,
    *,
    adapt: Collection[str] = (),
    strict: bool = True,
    ignore_head: bool = False,
    allow_extra: bool = False,
    chosen_axes: Collection[str] = (),
) -> LoadReport:
    """Load a file, a state dict, published weights (True or a tag) or `hf-hub:org/name` into a network.

    Published weights and reslab's own files also set the network's preprocessing and class names. `adapt`, `strict`,
    `ignore_head` and `allow_extra` are those of `load_checkpoint`, `chosen_axes` those of `WeightsOrigin`. Raises
    CheckpointError for a file that is not a checkpoint or does not fit, FileNotFoundError, WeightsUnavailableError, and
    ValueError for an unknown tag.
    """
    if isinstance(source, Mapping):
        return load_checkpoint(
            network,
            unwrap_checkpoint("the state dict", source),
            adapt=adapt,
            strict=strict,
            ignore_head=ignore_head,
            allow_extra=allow_extra,
            origin=WeightsOrigin(chosen_axes=tuple(chosen_axes), module_names=_module_names(source)),
        )
    checkpoint, published = _read_source(network, source)
    checkpoint = replace(checkpoint, messages=(*checkpoint.messages, *published.messages))
    check_plugins(checkpoint.header.get("plugins"), "the file")
    report = load_checkpoint(
        network,
        checkpoint,
        adapt=adapt,
        strict=strict,
        ignore_head=ignore_head,
        allow_extra=allow_extra,
        origin=WeightsOrigin(_trained_arch(network.arch, checkpoint, published), tuple(chosen_axes)),
    )
    _set_model_metadata(network, published, report)
    return report


def _module_names(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of all modules, those without entries too, if torch's `state_dict()` made the state dict."""
    return tuple(getattr(state, "_metadata", ()))


def _read_source(network: ResidualNetwork, source: bool | str | Path | Enum) -> tuple[Checkpoint, PublishedWeights]:
    """Return the weights, and what is known about them."""
    if isinstance(source, str | Path) and is_path(source):
        checkpoint = read_checkpoint(source, limits=read_limits(network))
        return checkpoint, weights_from_header(checkpoint) if checkpoint.header else _weights_beside(Path(source))
    published = resolve_pretrained(network.arch.name, source)
    return fetch_published(published), published


def _trained_arch(arch: Arch, checkpoint: Checkpoint, published: PublishedWeights) -> Arch | None:
    """Return the network that the weights were trained in, by header, published name or file name; None if unknown.

    Raises CheckpointError if they name a network that the zoo lacks.
    """
    if checkpoint.header.get("arch"):
        stored = arch_from_dict(checkpoint.header["arch"], checkpoint.header.get("kind"))
        return stored if isinstance(stored, Arch) else stored.backbone
    if published.arch and published.arch not in ARCHS:
        step = f"leave its config.json out to load the weights as {arch.name}"
        raise invalid_checkpoint(f"weights of {arch.name}", f"{checkpoint.name}, of {published.arch}", next_step=step)
    return ARCHS.get(published.arch)


def is_path(source: str | Path) -> bool:
    """Return whether this names a file or folder (existing or not) rather than published weights."""
    if isinstance(source, Path) or Path(source).exists():
        return True
    if source.startswith((HUB_PREFIX, "timm/")):
        return False
    return source.endswith(_FILE_SUFFIXES) or os.sep in source


def resolve_pretrained(name: str, source: bool | str | Path | Enum) -> PublishedWeights:
    """Return the published weights that `source` names for the network `name`."""
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        return find_hub_weights(source.removeprefix(HUB_PREFIX))
    assert not isinstance(source, Path)
    if isinstance(source, str):
        prefix, dot, _ = source.removeprefix("timm/").partition(".")
        if dot and find_model_name(source) is None and not prefix.endswith("_Weights"):  # no tag has another prefix
            got = f"{source}, and there is no such file in {Path.cwd()}"
            tags = ", ".join(list_published_tags(name)[:2])
            raise invalid(f"a file of weights, or a tag of published weights of {name}", got, nearest=tags)
    return find_published_weights(name, source)


def fetch_published(published: PublishedWeights, key_prefixes: Sequence[str] = KEY_PREFIXES) -> Checkpoint:
    """Return the checkpoint of published weights, downloaded into the cache if needed; see `read_checkpoint`."""
    description = f"the weights {published.tag} of {published.arch}"
    path = (
        fetch_weights(published.url, published.hash_prefix, description)
        if published.url
        else fetch_from_hub(published.repo)
    )
    name = path.name if published.url else published.repo
    return replace(read_checkpoint(path, key_prefixes=key_prefixes), name=name)


def _weights_beside(path: Path) -> PublishedWeights:
    """Return what the `config.json` of a downloaded repository, or else the file's name, says about its weights."""
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / "config.json") if path.is_dir() or path.name in _HUB_WEIGHT_FILES else {}
    if config:
        return weights_from_config(str(path), config, _read_json(folder / "preprocessor_config.json"))
    return PublishedWeights(arch_of_file_name(path.stem) or "", path.name)


def weights_from_header(checkpoint: Checkpoint) -> PublishedWeights:
    """Return the preprocessing and class names in the header of one of reslab's own files, if it is one."""
    classes, preprocess = (checkpoint.header.get(key) for key in ("classes", "preprocess"))
    return PublishedWeights(
        "",
        checkpoint.name,
        preprocess=from_dict(Preprocess, preprocess) if preprocess else None,
        classes=tuple(classes) if classes else None,
    )


def _set_model_metadata(network: ResidualNetwork, published: PublishedWeights, report: LoadReport) -> None:
    """Set the preprocessing and class names that belong to the weights; no names for a new head."""
    if published.preprocess is not None:
        network.set_metadata(preprocess=adapt_preprocess(published.preprocess, network.arch.in_channels))
    if published.classes and not report.reinitialized and len(published.classes) == network.arch.num_classes:
        network.set_metadata(classes=published.classes)
