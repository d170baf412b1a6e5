"""Weights of the Hugging Face hub, through the packages of the extra `timm`, in the hub's own cache."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from reslab.nn.checkpoints.download import TIMEOUT_SECONDS, WeightsUnavailable, file_hash
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.published import EXTRA, Published, timm_classes, timm_preprocess
from reslab.spec.errors import refuse
from reslab.spec.preprocess import Preprocess

PREFIX = "hf-hub:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def fetch_from_hub(repo: str) -> Path:
    """The file of weights of a repository `org/name`, its SHA-256 checked where the hub tells it (`HF_ENDPOINT` names a
    mirror).

    The cache is the hub's own, shared with timm and transformers. Raises WeightsUnavailable, naming the file and its
    place, where it cannot be fetched or the extra is missing, and CheckpointError where the hash is another.
    """
    reasons = []
    for name in _WEIGHTS:
        try:
            path = hub_file(repo, name)
        except OSError as error:
            reasons.append(str(error).strip().split("\n")[0])
            if isinstance(error, ConnectionError):
                break
            continue
        _check_hash(path)
        return path
    url = f"{_endpoint()}/{repo}/resolve/main/{_WEIGHTS[0]}"
    required = f"a network to fetch the weights of {repo}, or the file in the hub's cache"
    step = f"fetch {url} elsewhere and give its place: pretrained='PATH/{_WEIGHTS[0]}'"
    raise WeightsUnavailable(str(refuse(required, f"{repo} cannot be read ({reasons[0]})", next_step=step)))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_file(repo: str, name: str) -> Path:
    """One file of a repository, from the cache, else from the hub.

    Raises WeightsUnavailable without the extra, ConnectionError where the hub cannot be reached, OSError where it has
    no such file.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        required = f"the extra timm for weights of the Hugging Face hub ({repo})"
        raise WeightsUnavailable(str(refuse(required, "an installation without it", next_step=EXTRA))) from error
    try:
        with suppress(Exception):
            return Path(hf_hub_download(repo, name, local_files_only=True))
        _reach()
        return Path(hf_hub_download(repo, name, endpoint=_endpoint()))
    except ConnectionError:
        raise
    except Exception as error:  # its own, those of its client and those of the network have no class in common
        raise OSError(f"{name} of {repo}: {error}") from error


def _reach() -> None:
    """ConnectionError, soon, where the hub cannot be reached: its own client tries for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE forbids the network")
    try:
        urlopen(_endpoint(), timeout=TIMEOUT_SECONDS).close()
    except HTTPError as error:
        error.close()
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{_endpoint()}: {error}") from error


def _check_hash(path: Path) -> None:
    """Large files lie in the hub's cache under the SHA-256 that the hub told."""
    blob = path.resolve()
    if len(blob.name) == 64 and file_hash(blob) != blob.name:
        found = file_hash(blob)
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        got = f"{path} with {found[:16]}..."
        raise CheckpointError(
            str(refuse(f"a file with the SHA-256 {blob.name}", got, next_step="it was removed; try again"))
        )


def find_on_hub(arch: str, repo: str) -> Published:
    """What the repository's `config.json` tells of its weights: preprocessing and class names, as timm or transformers
    write them."""
    fetch_from_hub(repo)  # first, so that a hub out of reach is told once
    facts = _read_json(repo, "config.json")
    notes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    if "pretrained_cfg" in facts:
        told = {
            "num_classes": facts.get("num_classes"),
            "label_names": facts.get("label_names"),
            **facts["pretrained_cfg"],
        }
        preprocess, notes = timm_preprocess(told)
        classes = timm_classes(told)
    elif "id2label" in facts:
        classes = tuple(name for _, name in sorted((int(key), name) for key, name in facts["id2label"].items()))
        preprocess = _transformers_preprocess(_read_json(repo, "preprocessor_config.json"))
    if preprocess is None:
        notes = (*notes, f"{repo} tells no preprocessing: give mean and std yourself")
    return Published(arch, PREFIX + repo, repo=repo, preprocess=preprocess, classes=classes, notes=notes)


def _read_json(repo: str, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(hub_file(repo, name).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _transformers_preprocess(facts: Mapping[str, Any]) -> Preprocess | None:
    size = facts.get("size")
    side = size.get("shortest_edge") or size.get("height") if isinstance(size, dict) else size
    if not side or "image_mean" not in facts or "image_std" not in facts:
        return None
    words = f"resize({int(side / facts.get('crop_pct', 0.875))}) center-crop({side})"
    return Preprocess(3, words, tuple(facts["image_mean"]), tuple(facts["image_std"]))
