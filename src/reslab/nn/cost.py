"""The cost of a network: output shape, parameters and multiply-adds of every layer, traced on the meta device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reslab.nn.dims import CONV_TYPES
from reslab.nn.receptive_field import ReceptiveFieldTracer
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class LayerSummary:
    """One call of a module.

    * `output_shape`: without the batch. `params`: its own parameters; `weights`: without those of norms and biases.
    * `macs`: multiply-adds of convolutions and linear layers for one image, as papers and torchvision count them.
    * `num_rows`: how often it runs on that shape at once: 1 for the image, or the number of regions of a detector.
    * `receptive_field`: input pixels along a side that one output position depends on; None: all of them.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    weights: int = 0
    num_rows: int = 1
    receptive_field: int | None = None


def layer_table(model: nn.Module, input_size: tuple[int, ...]) -> list[LayerSummary]:
    """Return the layers of any module in the order they run, for one input of `input_size` (C, H, W).

    A module that runs several times has one row per call; its parameters count in the first. Nothing is computed and
    no weight changes. A detector runs on an image as it resizes it, with as many regions as it evaluates at most.
    Raises ValueError for a detector that is not of reslab.
    """
    _check_traceable(model)
    rows: list[LayerSummary] = []
    seen: set[int] = set()

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            own_params = [parameter for parameter in module.parameters(recurse=False) if id(module) not in seen]
            seen.add(id(module))
            params = sum(parameter.numel() for parameter in own_params)
            weights = sum(parameter.numel() for parameter in own_params if parameter.ndim > 1)
            receptive_field, macs = tracer.get(output), _macs(module, output)
            output_shape, field_size = tuple(output.shape[1:]), receptive_field.size if receptive_field else None
            rows.append(
                LayerSummary(
                    name=name,
                    kind=type(module).__name__,
                    output_shape=output_shape,
                    params=params,
                    macs=macs,
                    weights=weights,
                    num_rows=len(output) if output.ndim else 1,
                    receptive_field=field_size,
                )
            )

    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    image = torch.empty((1, *input_size), dtype=dtype, device="meta")
    tracer = ReceptiveFieldTracer(image)
    with _forward_hooks(model, record), _eval_mode(model), _tracing(model), torch.no_grad(), tracer:
        # Without tie_weights=False, functional_call leaves the tensors of a module used twice on the meta device.
        functional_call(model, _meta_tensors(model), (image,), tie_weights=False, strict=False)
    return rows


def _meta_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a meta tensor for each place that holds a parameter or buffer, one for all places that share a tensor.

    A module that is used under several names counts once, under its first name; its tensors are replaced there.
    """
    shared: dict[int, Tensor] = {}
    result: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        own_tensors = [*module.named_parameters(recurse=False, remove_duplicate=False)]
        for name, tensor in [*own_tensors, *module.named_buffers(recurse=False, remove_duplicate=False)]:
            if id(tensor) not in shared:
                shared[id(tensor)] = torch.empty_like(tensor, device="meta")
            result[f"{prefix}.{name}".lstrip(".")] = shared[id(tensor)]
    return result


def _macs(module: nn.Module, output: Tensor) -> int:
    """Return the multiply-adds: output elements times the inputs each one reads (kernel area, channels per group)."""
    if isinstance(module, CONV_TYPES):
        return output.numel() * prod(module.kernel_size) * (module.in_channels // module.groups)
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    return 0


def _check_traceable(model: nn.Module) -> None:
    """Raise ValueError for a detector that has no `trace_forward`: its anchors would stay on the meta device."""
    names = {type(module).__name__ for module in model.modules()}
    if "AnchorGenerator" in names and not hasattr(model, "trace_forward"):
        raise invalid("a network whose layers can be listed: a detector of reslab", type(model).__name__)


@contextmanager
def _tracing(model: nn.Module) -> Iterator[None]:
    """Run `trace_forward` in place of `forward` inside the block, where a network has it."""
    trace = getattr(model, "trace_forward", None)
    if trace is None:
        yield
        return
    model.forward = trace
    try:
        yield
    finally:
        del model.forward


@contextmanager
def _forward_hooks(model: nn.Module, record: Any) -> Iterator[None]:
    """Call `record` after each module without children, or with parameters of its own beside them."""
    handles = []
    for name, module in model.named_modules():
        is_leaf = not list(module.children()) and not isinstance(module, nn.Identity | nn.Sequential)
        if name and (is_leaf or list(module.parameters(recurse=False))):
            handles.append(module.register_forward_hook(lambda *call, name=name: record(name, *call)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
