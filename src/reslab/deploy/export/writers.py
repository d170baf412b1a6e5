"""Weights under the names of others: for torchvision, for timm, and in the layout of the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models import list_models as list_torchvision

from reslab.deploy.backends.backend import Answer
from reslab.deploy.card import config, config_text, model_card
from reslab.deploy.job import Job
from reslab.nn.checkpoint import Checkpoint
from reslab.nn.checkpoints.match_keys import match_names
from reslab.nn.checkpoints.safetensors_io import load_weights, save_weights
from reslab.nn.implied import other_axes
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.spec.zoo import ARCHS

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
# What may differ from the zoo's network without another program's network of that name being another one.
_FREE = ("name", "source", "num_classes", "in_channels", "image_size", "init", "last_norm_weight", "norm_momentum")
_INSTEAD = "--to onnx, torch or safetensors take any network"


def write_torchvision(job: Job, path: Path) -> None:
    """The state dict, which bears torchvision's names already."""
    _torchvision_network(job.arch)
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in job.network.state_dict().items()}, path)


def open_torchvision(job: Job, path: Path) -> Answer:
    """torchvision's own network with the file loaded strictly."""
    network = _torchvision_network(job.arch)
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return _answer(network)


def write_timm(job: Job, path: Path) -> None:
    """A folder for timm: weights under timm's names, and its config.json."""
    name = namesake(job.arch, _timm_names(), "timm")
    state = _named_as(_timm_network(name, job.arch), job.network)
    _write_folder(path, config(job.network, name), model_card(job.network, job.header))
    save_file(state, path / WEIGHTS, metadata={"format": "pt"})


def open_timm(job: Job, path: Path) -> Answer:
    """The network that timm makes of the folder alone."""
    import timm

    network = timm.create_model(f"local-dir:{path}", pretrained=True)
    network.load_state_dict(load_file(path / WEIGHTS), strict=True)
    return _answer(network)


def write_safetensors(job: Job, path: Path) -> None:
    """model.safetensors with its header, config.json and README.md, the model card."""
    _write_folder(path, config(job.network, job.arch.name), model_card(job.network, job.header))
    known = ("arch", "classes", "preprocess", "aliases")
    save_weights(path / WEIGHTS, job.network, {key: job.header[key] for key in job.header if key not in known})


def open_safetensors(job: Job, path: Path) -> Answer:
    """The network that reslab makes of the weights alone."""
    return _answer(load_weights(path / WEIGHTS))


def _write_folder(path: Path, facts: Mapping[str, Any], card: str) -> None:
    path.mkdir()
    (path / CONFIG).write_text(config_text(facts), encoding="utf-8")
    (path / CARD).write_text(card, encoding="utf-8")


def namesake(arch: Arch, known: list[str], owner: str) -> str:
    """The name under which `owner` has a network that computes as this one; ValueError with the reason where none."""
    candidates = [name for name in dict.fromkeys((arch.name, *ARCHS)) if name in known and name in ARCHS]
    for name in candidates:
        if not _differing(arch, ARCHS[name]):
            return name
    if arch.name in candidates:
        axes = ", ".join(f"{axis}={getattr(arch, axis)!r}" for axis in _differing(arch, ARCHS[arch.name]))
        raise refuse(f"{arch.name} as {owner} has it", f"one with {axes}", next_step=_INSTEAD)
    raise refuse(f"a network that {owner} has", f"{arch.name}, which is ours alone", next_step=_INSTEAD)


def _differing(arch: Arch, known: Arch) -> list[str]:
    """The axes that make another network of it."""
    alike = replace(known, **{axis: getattr(arch, axis) for axis in _FREE})
    functional = other_axes(arch, alike)
    written = ("depths", "widths", "branch", "expansion", "groups", "width_per_group", "norm", "bias", "stem_bias")
    shaped = [axis for axis in (*written, "head", "se_ratio") if getattr(arch, axis) != getattr(alike, axis)]
    dilated = [axis for axis in ("replace_stride_with_dilation",) if any(getattr(arch, axis))]
    return [*functional, *shaped, *dilated]


def _torchvision_network(arch: Arch) -> nn.Module:
    name = namesake(arch, list_torchvision(), "torchvision")
    if arch.in_channels != 3:
        raise refuse("pictures of 3 channels, as torchvision's networks read", arch.in_channels, next_step=_INSTEAD)
    return get_model(name, weights=None, num_classes=arch.num_classes)


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def _timm_network(name: str, arch: Arch) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=arch.num_classes, in_chans=arch.in_channels)


def _named_as(theirs: nn.Module, network: Network) -> dict[str, Tensor]:
    """Our weights under the names of `theirs`; ValueError where one of them has no counterpart of its shape."""
    own = network.state_dict()
    wanted = theirs.state_dict()
    found = match_names(Checkpoint("timm", dict(wanted)), own)
    entries = {} if found is None else found.entries
    named = {entry.source: own[name] for name, entry in entries.items() if name in own}
    lacking = [name for name, tensor in wanted.items() if name not in named or named[name].numel() != tensor.numel()]
    if lacking or len(named) != len(own):
        raise refuse("a network whose weights timm's has one for one", f"no counterpart of {', '.join(lacking[:3])}")
    return {
        name: named[name].detach().cpu().reshape(tensor.shape).contiguous().clone() for name, tensor in wanted.items()
    }


def _answer(network: nn.Module) -> Answer:
    network.eval()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x)

    return answer
