"""Networks of others: made by name, and read into the network of the zoo that computes the same."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.key_schemes import known_dialects
from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.match_keys import OPTIONAL
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.network import Network
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import refuse, unknown
from reslab.spec.zoo import ARCHS

# The same operations in the same order differ by rounding; another place of a stride or of a norm by far more.
_ROUNDING = 1e-4
_OTHERS = "ask a question that needs no shortcut: gradients, lesion, landscape, features and others take any module"
LIBRARIES = ("torchvision", "timm")


def create_foreign(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """`torchvision/NAME` or `timm/NAME` with fresh weights, and the shape (C, H, W) of a picture it takes.

    Raises ValueError for an unknown name, with the nearest; ModuleNotFoundError where timm is not installed.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if model in known:
            return torchvision.models.get_model(model, weights=None), (3, 224, 224)
    else:
        import timm

        known = timm.list_models()
        if model in known:
            made: Any = timm.create_model(model)
            return made, made.pretrained_cfg["input_size"]
    raise unknown(f"model of {library}", model, known)


@torch.no_grad()
def as_network(model: nn.Module, images: Tensor) -> Network:
    """The zoo's network with the weights of `model`, in eval mode, proved equal on `images` (N, C, H, W).

    Networks with tensors of the same shapes are tried one after the other. Equal: outputs within 1e-4 of their norm,
    with each norm and bias moved (a branch that ends in a norm of zeros says nothing of its inside) and with the
    weights as they are. A `Network` is handed back itself. Raises ValueError where none computes the same.
    """
    if isinstance(model, Network):
        return model
    model = copy.deepcopy(model).eval()
    outputs = model(images)  # before anything else: lazy modules have their shapes from now on
    moved, tried = _moved(model), []
    if isinstance(outputs, Tensor) and outputs.ndim == 2:
        for network in _candidates(model, images.shape[1], outputs.shape[1]):
            if _computes_as(network, moved, images) and _computes_as(network, model, images):
                return network
            tried.append(network.arch.name)
    got = f"a {type(model).__name__}"
    if tried:
        got += f"; tensors of its shapes, but other outputs, have: {', '.join(dict.fromkeys(tried))}"
    raise refuse("a residual network that a network of the zoo computes as well", got, next_step=_OTHERS)


def _moved(model: nn.Module) -> nn.Module:
    """A copy with every norm's and bias's numbers a little larger, the same way each time."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim < 2:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor)
    return model


def _candidates(model: nn.Module, in_channels: int, num_classes: int) -> Iterator[Network]:
    """The zoo's networks with tensors of the same shapes, their weights not set; also with what the names imply."""
    theirs, tensor = _shapes(model), next(model.parameters(), torch.empty(0))
    sides = {side for shape in theirs for side in shape}
    num_convs = sum(tensor.ndim == 4 for tensor in model.state_dict().values())
    own = {"in_channels": in_channels, "num_classes": num_classes}
    implied = [dict(dialect.implies) for dialect in known_dialects(model.state_dict())]
    for arch in ARCHS.values():
        if not set(arch.widths) <= sides or not _about_as_many(arch, num_convs):
            continue
        for resolved in dict.fromkeys(override(arch, {**axes, **own}) for axes in ({}, *implied)):
            with torch.device("meta"):
                network = Network(resolved)
            if _shapes(network) == theirs:
                yield network.to(tensor.dtype).to_empty(device=tensor.device).eval()


def _about_as_many(arch: Arch, num_convs: int) -> bool:
    """Beside the branches' there are at most a projection and two of squeeze-and-excite a unit, stem and head."""
    units = sum(arch.depths)
    return arch.shared or 0 <= num_convs - units * len(arch.branch) <= 3 * units + 4


def _shapes(model: nn.Module) -> set[tuple[int, ...]]:
    tensors = model.state_dict().items()
    return {tuple(side for side in tensor.shape if side != 1) for key, tensor in tensors if not key.endswith(OPTIONAL)}


def _computes_as(network: Network, model: nn.Module, images: Tensor) -> bool:
    """Whether the network, given the module's weights, has its outputs."""
    checkpoint = unwrap_checkpoint(type(model).__name__, model.state_dict())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the names imply does not matter where outputs decide
            load_checkpoint(network, checkpoint)
    except CheckpointError:
        return False
    outputs = model(images)
    return bool((network(images) - outputs).norm() <= _ROUNDING * outputs.norm())
