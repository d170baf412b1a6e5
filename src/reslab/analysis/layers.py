"""The residual blocks and the layers of any network: find them by name, record their calls and outputs.

A block's call is split into shortcut and branch.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.load import first_conv_name
from reslab.nn.cost import layer_table
from reslab.nn.dense import DenseNetwork
from reslab.nn.network import ResidualNetwork
from reslab.nn.registry import CONV_TYPES
from reslab.runtime.memory import read_free_bytes, release_memory
from reslab.spec.errors import invalid, unknown_name

STATISTICS = ("batch", "running", "auto")
WEIGHTED_LAYERS = (*CONV_TYPES, nn.Linear)
_GIB = 2**30


@dataclass(frozen=True, eq=False)
class BlockCall:
    """One call of a block: its `index` in the order of the calls, its input and its output (N, C, H, W).

    `label` distinguishes the calls of a shared block: `layer1.0`, `layer1.0 (2)`, ...
    """

    index: int
    name: str
    label: str
    block: nn.Module
    input: Tensor
    output: Tensor


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks with their names, first to last.

    In a third-party module these are the modules with several weighted parts in its innermost Sequentials. Where there
    is no such block (as in `book_net`), every child with weights of the outermost Sequential counts. A shared block
    comes once. Raises ValueError if there are none.
    """
    blocks = find_composite_blocks(model) or _weighted_layers(model)
    if not blocks:
        required = "a network with blocks: a reslab network, or blocks in an nn.Sequential"
        raise invalid(required, type(model).__name__, next_step="put the blocks into an nn.Sequential")
    return blocks


def find_composite_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks, or an empty list where `find_blocks` would fall back to single layers.

    Those of a network for segmentation or detection are the blocks of its backbone (`backbone.layer1.0`).
    """
    if isinstance(model, DenseNetwork):
        return [
            (f"{prefix}.{name}", block)
            for prefix, part in named_backbone_parts(model)
            for name, block in find_composite_blocks(part)
        ]
    return list(model.blocks()) if isinstance(model, ResidualNetwork) else _nested_blocks(model, "")


def named_backbone_parts(network: DenseNetwork) -> list[tuple[str, nn.Module]]:
    """Return the modules that hold the backbone, with their names in the network, in the order they run."""
    names = {module: name for name, module in network.named_modules()}
    return [(names[part], part) for part in network.backbone_parts]


def _nested_blocks(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return the composite children of Sequentials; where these hold blocks themselves, the inner blocks instead."""
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
    """Return whether a module has weighted parts and is more than a plain sequence of layers."""
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


@contextmanager
def record_block_calls(model: nn.Module) -> Iterator[list[BlockCall]]:
    """Yield a list that collects every call of a block while the model runs; the hooks are removed at the end."""
    calls: list[BlockCall] = []
    handles = [block.register_forward_hook(_recording_hook(name, calls)) for name, block in find_blocks(model)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def call_label(name: str, index: int) -> str:
    """Return the label of a module's call number `index`, from 0: `layer1.0`, `layer1.0 (2)`, ..."""
    return f"{name} ({index + 1})" if index else name


def _recording_hook(name: str, calls: list[BlockCall]) -> Any:
    def record(block: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        label = call_label(name, sum(call.name == name for call in calls))
        calls.append(BlockCall(len(calls), name, label, block, input=arguments[0], output=output))

    return record


def group_by_stage(calls: list[BlockCall]) -> list[list[BlockCall]]:
    """Return the calls, in order, grouped by stage: `layer1.0` and `layer1.1` belong together."""
    stages: list[list[BlockCall]] = []
    for call in calls:
        stage = call.name.rpartition(".")[0]
        if not stages or stages[-1][-1].name.rpartition(".")[0] != stage:
            stages.append([])
        stages[-1].append(call)
    return stages


def use_batch_statistics(model: nn.Module) -> nn.Module:
    """Put the norms of the model into training mode, and all else into eval mode, where nothing is random."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.train()
    return model


def with_statistics(model: nn.Module, statistics: str) -> nn.Module:
    """Return a copy whose norms use the statistics of the `batch`, as in training, or the `running` ones, as in eval.

    `auto` is `batch` before any training, when running statistics would normalize nothing, else `running`. Nothing is
    random in either mode. Raises ValueError for another value.
    """
    if statistics not in STATISTICS:
        raise unknown_name("statistics", statistics, STATISTICS)
    use_batch = statistics == "batch" or (statistics == "auto" and is_untrained(model))
    model = copy.deepcopy(model)
    return use_batch_statistics(model) if use_batch else model.eval()


def is_untrained(model: nn.Module) -> bool:
    """Return whether the running statistics of every norm still have their initial values."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.running_mean is not None and norm.running_var is not None]
    return all(not norm.running_mean.any() and bool((norm.running_var == 1).all()) for norm in tracked)  # type: ignore[union-attr]


@dataclass(frozen=True, eq=False)
class BlockParts:
    """The parts of one block: output = post(shortcut + branch), each (N, C, H, W) with factors and gates applied.

    `fork` is the input of both paths. The shortcut of a plain block is zeros.
    """

    fork: Tensor
    shortcut: Tensor
    branch: Tensor
    output: Tensor


def decompose_block(block: ResidualBlock, x: Tensor) -> BlockParts:
    """Return the parts of a block's output for the input x.

    The merge is linear in both paths, so each part is the merge with the other path set to zero. The block must be
    deterministic: randomly dropped elements would differ between the two merges, and the parts would not add up.
    """
    fork = block.pre(x)
    branch = block.branch(fork)
    shortcut = torch.zeros_like(branch)
    if block.merge is not None and block.downsample is not None:
        projected = block.downsample(fork)
        branch, shortcut = block.merge(fork, shortcut, branch), block.merge(fork, projected, torch.zeros_like(branch))
    return BlockParts(fork, shortcut, branch, block.post(shortcut + branch))


def shortcut_gradients(block: ResidualBlock, x: Tensor, *gradients: Tensor) -> list[Tensor]:
    """Return, for gradients at the block's output, what reaches its input x through the shortcut alone.

    The branch and the values of a gate count as constants: dL/dx = J_shortcut^T J_post^T dL/dy. Zeros in a plain block.
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
    """Return whether the block is x + F(x) from its fork on (He et al. 2016, Eq. 3).

    The shortcut is the identity, the merge a plain sum, and nothing follows it.
    """
    unchanged = not block.post_names and block.spec.has_identity_shortcut
    return unchanged and block.merge is not None and block.merge.is_plain_sum


class InsufficientMemoryError(ValueError):
    """There is too little free memory at the moment; a later try may succeed."""


def check_memory(model: nn.Module, images: Tensor, fraction: float = 1.0) -> None:
    """Raise InsufficientMemoryError, with the need, if `fraction` of all layer outputs exceeds the free memory.

    Measured on resnet56_cifar and resnet50: a pass with gradients holds at most 0.9 and 1.2 times all outputs, a pass
    that keeps the block outputs alone 0.3 and 0.6 times.
    """
    try:
        num_values = sum(prod(layer.output_shape) for layer in layer_table(model, tuple(images.shape[1:])))
    except (RuntimeError, TypeError, ValueError):
        # The shapes of a third-party module may depend on its values, which the meta device lacks: run it unchecked.
        return
    bytes_per_image = max(1, round(fraction * num_values * images.element_size()))
    needed_bytes = len(images) * bytes_per_image
    free_bytes = read_free_bytes(images.device)
    if free_bytes is not None and free_bytes < needed_bytes:
        release_memory()  # only now, because it takes long
        free_bytes = read_free_bytes(images.device)
    if free_bytes is None or free_bytes >= needed_bytes:
        return
    max_images = free_bytes // bytes_per_image
    needed_gib, free_gib = needed_bytes / _GIB, free_bytes / _GIB
    got = f"{len(images)} images, which need about {needed_gib:.1f} GiB of {free_gib:.1f} GiB free"
    suggestion = f"--num-images {max_images}" if max_images >= 2 else ""
    raise InsufficientMemoryError(invalid("images that fit in memory all at once", got, suggestion))


# The name of a layer, or the label of one of its calls.
_LAYER_LABEL = re.compile(r"(.+?)(?: \(\d+\))?")


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the module of this name. Raises ValueError with the nearest names if there is none."""
    modules = {module_name: module for module_name, module in model.named_modules() if module_name}
    if name not in modules:
        raise unknown_name("layer", name, modules)
    return modules[name]


def image_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks that run on whole images: all but those of a detector's region head (`find_blocks`)."""
    if not isinstance(model, DenseNetwork):
        return find_blocks(model)
    backbone = set(model.residual_network.modules())
    return [(name, block) for name, block in find_blocks(model) if block in backbone]


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the first convolution and the last block of every stage, without linear layers, which have no maps."""
    last_blocks = {
        name.rpartition(".")[0]: name for name, block in image_blocks(model) if not isinstance(block, nn.Linear)
    }
    return tuple(dict.fromkeys((require_first_conv(model), *last_blocks.values())))


def layers_by_depth(model: nn.Module) -> tuple[str, ...]:
    """Return the first convolution and every block, first to last; a block that is that convolution comes once."""
    return tuple(dict.fromkeys((require_first_conv(model), *block_names(model))))


def block_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of all blocks that run on whole images, first to last."""
    return tuple(name for name, _ in image_blocks(model))


def require_first_conv(model: nn.Module) -> str:
    """Return the name of the first convolution. Raises ValueError if there is none."""
    name = first_conv_name(model)
    if name is None:
        raise invalid("a network with a convolution", type(model).__name__)
    return name


def recording_hook(outputs: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """Return a forward hook that appends a layer's output to `outputs`, through which a gradient can be taken."""

    def record(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # the next layer may change it in place

    return record


@contextmanager
def record_outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Yield a dictionary that collects each layer's outputs, one a call, while the model runs.

    Raises ValueError for an unknown layer.
    """
    outputs: dict[str, list[Tensor]] = {}

    def make_hook(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.setdefault(name, []).append(output.clone())  # the next layer may change it in place

        return hook

    modules = {name: get_layer(model, name) for name in names}
    handles = [module.register_forward_hook(make_hook(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def layer_outputs(model: nn.Module, names: Sequence[str], images: Tensor, batch_size: int = 64) -> dict[str, Tensor]:
    """Return each layer's output for all images, (N, ...), in float32 on the images' device.

    A layer with several calls gets one entry a call: `layer1.0`, `layer1.0 (2)`, ...; such a label in `names` selects
    that call alone. Raises ValueError for an unknown layer or call.
    """
    layer_names = {name: _LAYER_LABEL.fullmatch(name)[1] for name in names}  # type: ignore[index]
    chunks: dict[str, list[Tensor]] = {}
    for x in images.split(batch_size):
        with record_outputs(model, list(layer_names.values())) as outputs:
            model(x)
        calls: dict[str, Tensor] = {}  # by label, as a layer and one of its calls may both be requested
        for name, layer in layer_names.items():
            calls |= _select_calls(outputs.get(layer, []), name, layer)
        for label, output in calls.items():
            if len(output) != len(x):
                raise invalid("a layer that runs on whole images", f"{label}, which runs on {len(output)} regions")
            chunks.setdefault(label, []).append(output.float())
    return {label: torch.cat(label_chunks) for label, label_chunks in chunks.items()}


def _select_calls(outputs: list[Tensor], name: str, layer: str) -> dict[str, Tensor]:
    """Return the outputs of all calls of a layer by label, or of the one call that `name` selects."""
    if not outputs:
        raise invalid("a layer that runs and returns a tensor", name)
    calls = {call_label(layer, call): output for call, output in enumerate(outputs)}
    if name != layer and name not in calls:
        raise unknown_name("call of a layer", name, calls)
    return calls if name == layer else {name: calls[name]}


def pool_features(maps: Tensor) -> Tensor:
    """Return maps (N, C, H, W) averaged over positions to (N, C), and other shapes flattened to (N, features)."""
    return maps.mean((2, 3)) if maps.ndim == 4 else maps.flatten(1)
