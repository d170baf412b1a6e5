"""The units of any network, and what runs through them.

A unit taken apart: what the shortcut and what the branch bring to its output, and to its input's gradient.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.progress import check_memory, report_progress
from reslab.analysis.subject import AnalysisTarget
from reslab.nn.block import DropPath, ResidualBlock, StochasticDepthBatch
from reslab.nn.network import ResidualNetwork
from reslab.nn.third_party import to_residual_network
from reslab.spec.errors import invalid, unknown_name

STATISTICS = ("batch", "running", "auto")
WEIGHTED_LAYERS = (nn.Conv2d, nn.Linear)
_STOCHASTIC_LAYERS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, StochasticDepthBatch, DropPath)


@dataclass(frozen=True, eq=False)
class BlockCall:
    """One run of a unit: `index` from 0 in the order they ran, `label` (`layer1.0`, or `layer1.0 (2)` of a second run
    of the same unit), its input and output (N, C, H, W)."""

    index: int
    name: str
    label: str
    block: nn.Module
    input: Tensor
    output: Tensor


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The units with their names, first to last: a `Network`'s, else the blocks of torchvision's and timm's networks.

    Of a foreign module: the blocks (modules with weights in parts, more than layers in a row) of the innermost
    Sequentials that hold any. Where there is no block (`book_net` has none of its own either), every child with weights
    of the outermost Sequential. A unit that is shared comes once.
    Raises ValueError where there are none.
    """
    blocks = find_composite_blocks(model) or _weighted_layers(model)
    if not blocks:
        required = "a network of units: a reslab network, or blocks in an nn.Sequential"
        raise invalid(required, type(model).__name__, next_step="put the blocks into an nn.Sequential")
    return blocks


def find_composite_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The units, or none where a network has none: `units_of` then takes its layers."""
    return list(model.blocks()) if isinstance(model, ResidualNetwork) else _nested_blocks(model, "")


def _nested_blocks(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Composite children of Sequentials, the innermost such Sequentials first to be asked."""
    blocks = []
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        nested = _nested_blocks(child, path)
        is_sequence = isinstance(module, nn.Sequential | nn.ModuleList)
        if nested:
            blocks += nested
        elif is_sequence and _is_block(child):
            blocks.append((path, child))
    return blocks


def _is_block(module: nn.Module) -> bool:
    """Weights in parts, and more than a convolution with its norm and activation in a row."""
    children = list(module.children())
    is_layer_sequence = isinstance(module, nn.Sequential) and not any(list(child.children()) for child in children)
    return bool(children) and not is_layer_sequence and _has_weights(module)


def _weighted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    sequentials = [
        (name, sequential) for name, sequential in model.named_modules() if isinstance(sequential, nn.Sequential)
    ]
    children = [
        (f"{name}.{child_name}".lstrip("."), child)
        for name, sequential in sequentials[:1]
        for child_name, child in sequential.named_children()
    ]
    return [(name, child) for name, child in children if _has_weights(child)]


def _has_weights(module: nn.Module) -> bool:
    return any(isinstance(child, WEIGHTED_LAYERS) for child in module.modules())


def get_block(model: nn.Module, name: str) -> nn.Module:
    """The unit of this name; ValueError with the nearest names where there is none."""
    blocks = dict(find_blocks(model))
    if name not in blocks:
        raise unknown_name("unit", name, blocks)
    return blocks[name]


@contextmanager
def record_block_calls(model: nn.Module) -> Iterator[list[BlockCall]]:
    """A list that fills with every run of a unit while the model runs inside the block; the hooks go when it ends."""
    calls: list[BlockCall] = []
    handles = [block.register_forward_hook(_recording_hook(name, calls)) for name, block in find_blocks(model)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def call_label(name: str, index: int) -> str:
    """What the run number `run`, from 0, of a module is called: `layer1.0`, `layer1.0 (2)`, ..."""
    return f"{name} ({index + 1})" if index else name


def _recording_hook(name: str, calls: list[BlockCall]) -> Any:
    def record(block: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        label = call_label(name, sum(call.name == name for call in calls))
        calls.append(BlockCall(len(calls), name, label, block, arguments[0], output))

    return record


def use_batch_statistics(model: nn.Module) -> nn.Module:
    """The module with statistics of the batch, as in training, but nothing drawn: dropout and its kin as at test."""
    model.train()
    for module in model.modules():
        if isinstance(module, _STOCHASTIC_LAYERS) or type(module).__name__ in ("DropPath", "StochasticDepth"):
            module.eval()
    return model


def with_statistics(model: nn.Module, statistics: str) -> nn.Module:
    """A copy whose norms take the statistics of the `batch`, as in training, or the `running` ones, as at test.

    `auto` is the batch's where no training has been (running statistics would normalise nothing), else the running
    ones. Nothing is drawn either way. Raises ValueError for another word.
    """
    if statistics not in STATISTICS:
        raise unknown_name("statistics", statistics, STATISTICS)
    use_batch = statistics == "batch" or (statistics == "auto" and is_untrained(model))
    model = copy.deepcopy(model)
    return use_batch_statistics(model) if use_batch else model.eval()


def is_untrained(model: nn.Module) -> bool:
    """Whether no batch has passed in training: every norm's running statistics are as they were made."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.running_mean is not None and norm.running_var is not None]
    return all(not norm.running_mean.any() and bool((norm.running_var == 1).all()) for norm in tracked)  # type: ignore[union-attr]


_NUM_CHECK_IMAGES = 8
# What of all layers' outputs stays without gradients: those of the units.
_KEPT_FRACTION = 0.3


@dataclass(frozen=True, eq=False)
class BlockParts:
    """y = after(shortcut + branch), each (N, C, H, W) with factors and gates applied; `fork` is what both read.

    The shortcut of a plain twin is zeros.
    """

    fork: Tensor
    shortcut: Tensor
    branch: Tensor
    output: Tensor


def decompose_block(block: ResidualBlock, x: Tensor) -> BlockParts:
    """The parts of a unit's output for the input x: what meets is linear in both, so each is the sum without the other.

    For one mode of the unit: with dropped elements or branches drawn anew each time the parts would not add up.
    """
    fork = block.pre(x)
    branch = block.branch(fork)
    shortcut = torch.zeros_like(branch)
    if block.merge is not None and block.downsample is not None:
        projected = block.downsample(fork)
        branch, shortcut = block.merge(fork, shortcut, branch), block.merge(fork, projected, torch.zeros_like(branch))
    return BlockParts(fork, shortcut, branch, block.post(shortcut + branch))


def shortcut_gradients(block: ResidualBlock, x: Tensor, *gradients: Tensor) -> list[Tensor]:
    """Of gradients at the unit's output, what comes back to its input x by the shortcut alone.

    The branch and the openness of a gate are taken as constants: dL/dx = J_shortcut^T J_after^T dL/dy. Zeros in a plain
    twin.
    """
    if block.merge is None or block.downsample is None:
        return [torch.zeros_like(x) for _ in gradients]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        fork = block.pre(x)
        branch = block.branch(fork.detach()).detach()
        output = block.post(block.merge(fork.detach(), block.downsample(fork), branch))
    return [torch.autograd.grad(output, x, gradient, retain_graph=True)[0] for gradient in gradients]


def is_identity_block(block: ResidualBlock) -> bool:
    """Whether x + F(x) is all the unit does from its fork on: shortcut and the words after are identities, and they are
    added (He et al. 2016, Eq. 3)."""
    unchanged = not block.post_names and block.spec.shortcut == "identity"
    return unchanged and block.merge is not None and block.merge.is_plain_sum


def group_by_stage(calls: list[BlockCall]) -> list[list[BlockCall]]:
    """The runs, in order, by the stage in which they stand: `layer1.0` and `layer1.1` are of one."""
    stages: list[list[BlockCall]] = []
    for call in calls:
        stage = call.name.rpartition(".")[0]
        if not stages or stages[-1][-1].name.rpartition(".")[0] != stage:
            stages.append([])
        stages[-1].append(call)
    return stages


def collect_block_calls(network: ResidualNetwork, images: Tensor, statistics: str) -> list[BlockCall]:
    """The runs of the network's units on the images, without gradients."""
    check_memory(network, images, fraction=_KEPT_FRACTION)
    model = with_statistics(network, statistics)
    with torch.no_grad(), record_block_calls(model) as calls:
        model(images)
    return calls


def as_residual_network(target: AnalysisTarget) -> ResidualNetwork:
    """The subject's network, whose units can be taken apart; a module of others read into the zoo's network that
    computes the same on the first pictures (see `reslab.nn.third_party.as_network`).

    Raises ValueError where there is none, and for a network without units.
    """
    network = to_residual_network(target.model, target.images[:_NUM_CHECK_IMAGES])
    if not network.arch.depths:
        raise invalid("a network of units", f"{target.name}, which has none", nearest="book_res")
    if network is not target.model:
        report_progress(f"{target.name} computes what {network.arch.name} does, and is asked as it")
    return network
