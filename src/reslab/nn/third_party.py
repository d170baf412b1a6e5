"""Convert a third-party model to the zoo's network that computes the same."""

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.key_schemes import matching_key_schemes
from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.load_report import CheckpointError
from reslab.nn.checkpoints.match_keys import OPTIONAL_SUFFIX
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.init import init_empty_weights
from reslab.nn.network import ResidualNetwork
from reslab.spec.arch import Arch
from reslab.spec.config import override
from reslab.spec.errors import invalid
from reslab.spec.zoo import ARCHS

# The same operations in the same order differ by rounding; another position of a stride or a norm by far more.
_RTOL = 1e-4
_NEXT_STEP = "use an analysis that takes any module: gradients, lesion, landscape, features and others"


@torch.no_grad()
def to_residual_network(model: nn.Module, images: Tensor) -> ResidualNetwork:
    """Return the zoo's network with the weights of `model`, in eval mode, verified to be equal on `images` (N C H W).

    Networks with tensors of the same shapes are tried one after the other. Equal means that outputs agree within 1e-4
    of their norm, with the weights as they are and with every norm and bias perturbed: a branch that ends in a norm of
    zeros would otherwise hide what is inside. A `ResidualNetwork` is returned unchanged. Raises ValueError if no
    network computes the same.
    """
    if isinstance(model, ResidualNetwork):
        return model
    model = copy.deepcopy(model).eval()
    outputs = model(images)  # first, so that lazy modules have their shapes
    perturbed, rejected = _perturb_vectors(model), []
    if isinstance(outputs, Tensor) and outputs.ndim == 2:
        for network in _candidates(model, images.shape[1], outputs.shape[1]):
            if _outputs_match(network, perturbed, images) and _outputs_match(network, model, images):
                return network
            rejected.append(network.arch.name)
    got = f"a {type(model).__name__}"
    if rejected:
        got += f"; networks with the same shapes but other outputs: {', '.join(dict.fromkeys(rejected))}"
    raise invalid("a residual network that equals one of the zoo", got, next_step=_NEXT_STEP)


def _perturb_vectors(model: nn.Module) -> nn.Module:
    """Return a copy with every vector (norms, biases) slightly increased, with a fixed seed."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim < 2:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor)
    return model


def _candidates(model: nn.Module, in_channels: int, num_classes: int) -> Iterator[ResidualNetwork]:
    """Yield the zoo's networks with tensors of the same shapes, also as the key scheme implies; weights are not set."""
    shapes, reference_tensor = _shapes(model), next(model.parameters(), torch.empty(0))
    sizes = {size for shape in shapes for size in shape}
    num_convs = sum(reference_tensor.ndim == 4 for reference_tensor in model.state_dict().values())
    io_sizes = {"in_channels": in_channels, "num_classes": num_classes}
    implied = [dict(scheme.implied_arch) for scheme in matching_key_schemes(model.state_dict())]
    for arch in ARCHS.values():
        if not set(arch.widths) <= sizes or not _plausible_conv_count(arch, num_convs):
            continue
        for candidate in dict.fromkeys(override(arch, {**axes, **io_sizes}) for axes in ({}, *implied)):
            with init_empty_weights():
                network = ResidualNetwork(candidate)
            if _shapes(network) == shapes:
                yield network.to(reference_tensor.dtype).to_empty(device=reference_tensor.device).eval()


def _plausible_conv_count(arch: Arch, num_convs: int) -> bool:
    """A block adds at most a projection and two squeeze-and-excite convolutions to its branch; stem and head a few."""
    num_blocks = sum(arch.depths)
    return arch.share_weights or 0 <= num_convs - num_blocks * arch.num_convs <= 3 * num_blocks + 4


def _shapes(model: nn.Module) -> set[tuple[int, ...]]:
    tensors = model.state_dict().items()
    return {
        tuple(size for size in tensor.shape if size != 1)
        for key, tensor in tensors
        if not key.endswith(OPTIONAL_SUFFIX)
    }


def _outputs_match(network: ResidualNetwork, model: nn.Module, images: Tensor) -> bool:
    """Return whether the network with the module's weights has the module's outputs."""
    checkpoint = unwrap_checkpoint(type(model).__name__, model.state_dict())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the key scheme do not matter: the outputs decide
            load_checkpoint(network, checkpoint)
    except CheckpointError:
        return False
    outputs = model(images)
    return bool((network(images) - outputs).norm() <= _RTOL * outputs.norm())
