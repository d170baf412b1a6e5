"""Layers of any module by name, and their recorded outputs."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reslab.analysis.blocks import call_label, find_blocks
from reslab.nn.checkpoints.load import first_conv_name
from reslab.nn.dense import DenseNetwork
from reslab.spec.errors import invalid, unknown_name

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
