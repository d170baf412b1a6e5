"""Published weights of torchvision and timm: tags, URLs, preprocessing, class names; and their download.

Files go into the hub cache of torch, where one appears only when its hash is right.
"""

import errno
import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch.hub

from reslab.nn.checkpoints.load_report import invalid_checkpoint
from reslab.runtime.files import atomic_path
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


TIMEOUT_SECONDS = 20.0
MAX_BYTES = 16 << 30
"""The largest file of weights that is downloaded; the largest published ones have 3 GB."""
MIN_BYTES_PER_SECOND = 1024.0
"""A download that is slower than this over `SLOW_SECONDS` is given up."""
SLOW_SECONDS = 60.0
_CHUNK = 1 << 18
# A full disk or a read-only folder is an error of this machine, not a missing network: raise it as it is.
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR)


class WeightsUnavailableError(ValueError):
    """Published weights are unavailable: none are published, there is no network, or an extra is not installed.

    `next_step` says what to do about it.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


def weights_unavailable(required: str, got: object, nearest: str = "", next_step: str = "") -> WeightsUnavailableError:
    """Return the WeightsUnavailableError with the message of `reslab.spec.errors.invalid`."""
    return WeightsUnavailableError(str(invalid(required, got, nearest, next_step)), next_step)


def hub_checkpoints_dir() -> Path:
    """Return the folder of torch's hub for checkpoints, which torchvision uses too (`TORCH_HOME` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(url: str, hash_prefix: str, description: str, directory: Path | None = None) -> Path:
    """Return the path of a URL's file in `directory` (torch's hub cache); download it if needed and check its SHA-256.

    `RESLAB_WEIGHTS_URL` replaces the URL except for the file's name, for mirrors. A download is kept only if it is
    complete and its hash begins with `hash_prefix`. Raises WeightsUnavailableError, naming the file and where to put
    it, if it cannot be downloaded, and CheckpointError if the hash differs.
    """
    directory = directory or hub_checkpoints_dir()
    name = Path(urlparse(url).path).name
    path = directory / name
    if path.is_file():
        _check_cached_hash(path, hash_prefix)
        return path
    mirror = os.environ.get("RESLAB_WEIGHTS_URL")
    url = f"{mirror.rstrip('/')}/{name}" if mirror else url
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _download(url, path, hash_prefix)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        elif isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS and not isinstance(error, URLError):
            raise OSError(error.errno, f"{error.strerror}: {name} could not be written", str(directory)) from error
        got = f"{url} cannot be read ({error or type(error).__name__})"
        step = f"download {url} elsewhere and put it at {path}"
        required = f"an internet connection to download {description}, or the file {name} in {directory}"
        raise weights_unavailable(required, got, next_step=step) from error
    return path


def _check_cached_hash(path: Path, hash_prefix: str) -> None:
    actual_hash = file_hash(path)
    if not actual_hash.startswith(hash_prefix):
        got = f"{path} with {actual_hash[:16]}..."
        step = f"delete {path}: it is then downloaded again"
        raise invalid_checkpoint(f"a file whose SHA-256 begins with {hash_prefix}", got, next_step=step)


class _SecureRedirects(HTTPRedirectHandler):
    """Follows redirects to http and https: to another host or from https only to https. Others are an OSError.

    Publishers redirect to the hosts that store their files; the hash shows that the file is the right one.
    """

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and (new.scheme != "http" or old.scheme != "http" or new.hostname != old.hostname):
            fp.close()
            raise OSError(f"a redirect to {newurl[:200]}: another host needs https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_url(url: str) -> Any:
    """Return the response of a URL of http or https, and of nothing else (a mirror may not be `file:` or `ftp:`)."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError("its scheme is neither https nor http")
    request = Request(url, headers={"User-Agent": "reslab"})
    return build_opener(_SecureRedirects).open(request, timeout=TIMEOUT_SECONDS)


def _declared_size(response: Any) -> int | None:
    text = response.headers["Content-Length"]
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise OSError(f"its length is {text[:40]!r}, not a number of bytes")
    return int(text)


def _check_progress(num_bytes: int, seconds: float) -> None:
    """Raise OSError for a download that is too large or too slow."""
    if num_bytes > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES:,} bytes")
    if seconds > SLOW_SECONDS and num_bytes < seconds * MIN_BYTES_PER_SECOND:
        raise OSError(f"too slow: {num_bytes:,} bytes in {seconds:,.0f} seconds")


def _download(url: str, path: Path, hash_prefix: str) -> None:
    digest, num_received, start = hashlib.sha256(), 0, time.monotonic()
    with atomic_path(path) as partial:
        with _open_url(url) as response:
            size = _declared_size(response)
            _check_progress(size or 0, 0.0)
            with partial.open("wb") as file, _progress_bar(size, path.name) as bar:
                while chunk := response.read1(_CHUNK):  # what has arrived: `read` waits hours for a slow server
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                    num_received += len(chunk)
                    _check_progress(num_received, time.monotonic() - start)
        received = partial.stat().st_size
        if size is not None and received != size:
            raise OSError(f"truncated: received {received:,} of {size:,} bytes")
        if not digest.hexdigest().startswith(hash_prefix):
            got = f"{url} with {digest.hexdigest()[:16]}..."
            step = "the download was discarded; try again, or check the mirror"
            raise invalid_checkpoint(f"a file whose SHA-256 begins with {hash_prefix}", got, next_step=step)


def _progress_bar(size: int | None, name: str) -> Any:
    """Return torch.hub's progress bar on standard error: tqdm if it is installed, else torch's plain one."""
    bar = vars(torch.hub)["tqdm"]
    return bar(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=name)
