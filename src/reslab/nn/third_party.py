"""Networks of others: made by name, and read into the network of the zoo that computes the same."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.key_schemes import matching_key_schemes
from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.match_keys import OPTIONAL_SUFFIX
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.zoo import ARCHS

# The same operations in the same order differ by rounding; another place of a stride or of a norm by far more.
_RTOL = 1e-4
_NEXT_STEP = "ask a question that needs no shortcut: gradients, lesion, landscape, features and others take any module"
LIBRARIES = ("torchvision", "timm")


def create_third_party_model(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """`torchvision/NAME` or `timm/NAME` with fresh weights, and the shape (C, H, W) of a picture it takes.

    Raises ValueError for an unknown name, with the nearest; ModuleNotFoundError where timm is not installed.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        import torchvision

        names = torchvision.models.list_models(module=torchvision.models)
        if model in names:
            return torchvision.models.get_model(model, weights=None), (3, 224, 224)
    else:
        import timm

        names = timm.list_models()
        if model in names:
            timm_model: Any = timm.create_model(model)
            return timm_model, timm_model.pretrained_cfg["input_size"]
    raise unknown_name(f"model of {library}", model, names)


@torch.no_grad()
def to_residual_network(model: nn.Module, images: Tensor) -> ResidualNetwork:
    """The zoo's network with the weights of `model`, in eval mode, proved equal on `images` (N, C, H, W).

    Networks with tensors of the same shapes are tried one after the other. Equal: outputs within 1e-4 of their norm,
    with each norm and bias moved (a branch that ends in a norm of zeros says nothing of its inside) and with the
    weights as they are. A `Network` is handed back itself. Raises ValueError where none computes the same.
    """
    if isinstance(model, ResidualNetwork):
        return model
    model = copy.deepcopy(model).eval()
    outputs = model(images)  # before anything else: lazy modules have their shapes from now on
    perturbed, rejected = _perturb_vectors(model), []
    if isinstance(outputs, Tensor) and outputs.ndim == 2:
        for network in _candidates(model, images.shape[1], outputs.shape[1]):
            if _outputs_match(network, perturbed, images) and _outputs_match(network, model, images):
                return network
            rejected.append(network.arch.name)
    got = f"a {type(model).__name__}"
    if rejected:
        got += f"; tensors of its shapes, but other outputs, have: {', '.join(dict.fromkeys(rejected))}"
    raise invalid("a residual network that a network of the zoo computes as well", got, next_step=_NEXT_STEP)


def _perturb_vectors(model: nn.Module) -> nn.Module:
    """A copy with every norm's and bias's numbers a little larger, the same way each time."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim < 2:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor)
    return model


def _candidates(model: nn.Module, in_channels: int, num_classes: int) -> Iterator[ResidualNetwork]:
    """The zoo's networks with tensors of the same shapes, their weights not set; also with what the names imply."""
    shapes, reference_tensor = _shapes(model), next(model.parameters(), torch.empty(0))
    sizes = {size for shape in shapes for size in shape}
    num_convs = sum(reference_tensor.ndim == 4 for reference_tensor in model.state_dict().values())
    io_sizes = {"in_channels": in_channels, "num_classes": num_classes}
    implied = [dict(scheme.implied_arch) for scheme in matching_key_schemes(model.state_dict())]
    for arch in ARCHS.values():
        if not set(arch.widths) <= sizes or not _plausible_conv_count(arch, num_convs):
            continue
        for candidate in dict.fromkeys(override(arch, {**axes, **io_sizes}) for axes in ({}, *implied)):
            with torch.device("meta"):
                network = ResidualNetwork(candidate)
            if _shapes(network) == shapes:
                yield network.to(reference_tensor.dtype).to_empty(device=reference_tensor.device).eval()


def _plausible_conv_count(arch: Arch, num_convs: int) -> bool:
    """Beside the branches' there are at most a projection and two of squeeze-and-excite a unit, stem and head."""
    num_blocks = sum(arch.depths)
    return arch.share_weights or 0 <= num_convs - num_blocks * len(arch.convs) <= 3 * num_blocks + 4


def _shapes(model: nn.Module) -> set[tuple[int, ...]]:
    tensors = model.state_dict().items()
    return {
        tuple(size for size in tensor.shape if size != 1)
        for key, tensor in tensors
        if not key.endswith(OPTIONAL_SUFFIX)
    }


def _outputs_match(network: ResidualNetwork, model: nn.Module, images: Tensor) -> bool:
    """Whether the network, given the module's weights, has its outputs."""
    checkpoint = unwrap_checkpoint(type(model).__name__, model.state_dict())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the names imply does not matter where outputs decide
            load_checkpoint(network, checkpoint)
    except CheckpointError:
        return False
    outputs = model(images)
    return bool((network(images) - outputs).norm() <= _RTOL * outputs.norm())
