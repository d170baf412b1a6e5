"""The cost of a network: output shape, receptive field, parameters and multiply-adds of every layer.

Layers are traced on the meta device; receptive fields through every operation of any module.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from reslab.nn.registry import CONV_TYPES
from reslab.runtime.lazy_dynamo import lazy_dynamo
from reslab.spec.errors import invalid

_aten = torch.ops.aten


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of a position.

    `size`: input pixels along a side that it depends on (None: all). `jump`: input pixels to the next position.
    """

    size: int | None = 1
    jump: int = 1

    def after_window(self, kernel: int, stride: int, dilation: int = 1) -> "ReceptiveField":
        """Return the field after a window: size + (kernel - 1) * dilation * jump, and jump * stride."""
        size = None if self.size is None else self.size + (kernel - 1) * dilation * self.jump
        return ReceptiveField(size, self.jump * stride)

    def union(self, other: "ReceptiveField") -> "ReceptiveField":
        """Return the field of a position that reads both: the wider one."""
        size = None if self.size is None or other.size is None else max(self.size, other.size)
        return ReceptiveField(size, max(self.jump, other.jump))


class ReceptiveFieldTracer(TorchDispatchMode):
    """Trace the receptive field of every tensor with respect to `input_tensor`, while modules run in the context.

    r = 1 + sum of (kernel - 1) * dilation * (product of strides before) over the convolutions and pools on the widest
    path; Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Eq. 2. Matrix
    products, means over positions and global pools see the whole input; norms are treated as pointwise.
    """

    def __init__(self, input_tensor: Tensor) -> None:
        super().__init__()
        # Keep the tensors, so that no id is reused; on the meta device they hold no data.
        self._fields: dict[int, tuple[Tensor, ReceptiveField]] = {id(input_tensor): (input_tensor, ReceptiveField())}

    def get(self, tensor: Tensor) -> ReceptiveField | None:
        """Return the receptive field of a tensor; None if it does not depend on the input tensor."""
        entry = self._fields.get(id(tensor))
        return None if entry is None else entry[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shape_fn = _SHAPES.get(func) if args and type(args[0]) is Tensor and args[0].is_meta else None
        output = None if shape_fn is None else shape_fn(*args)
        if output is None:
            output = func(*args, **(kwargs or {}))
        field = self._propagate(func, args)
        if field is not None:
            for tensor in output if isinstance(output, list | tuple) else (output,):
                if isinstance(tensor, Tensor):
                    self._fields[id(tensor)] = (tensor, field)
        return output

    def _propagate(self, func: Any, args: Sequence[Any]) -> ReceptiveField | None:
        flat_args = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else (arg,))]
        fields = [field for arg in flat_args if isinstance(arg, Tensor) and (field := self.get(arg)) is not None]
        if not fields:
            return None
        field = fields[0]
        for other in fields[1:]:
            field = field.union(other)
        rule = _PROPAGATION_RULES.get(func.overloadpacket)
        return field if rule is None else rule(field, args)


def _global(field: ReceptiveField, args: Sequence[Any]) -> ReceptiveField:
    return ReceptiveField(None, field.jump)


def _convolution(field: ReceptiveField, args: Sequence[Any]) -> ReceptiveField:
    weight, stride, dilation = args[1], args[3], args[5]
    return field.after_window(max(weight.shape[2:]), max(stride), max(dilation))


def _pool(field: ReceptiveField, args: Sequence[Any]) -> ReceptiveField:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    return field.after_window(max(kernel), max(stride))


def _adaptive_pool(field: ReceptiveField, args: Sequence[Any]) -> ReceptiveField:
    sides, output_sizes = args[0].shape[-2:], args[1]
    return (
        field.after_window(*[-(-max(sides) // max(output_sizes))] * 2)
        if max(output_sizes) > 1
        else _global(field, args)
    )


def _slice(field: ReceptiveField, args: Sequence[Any]) -> ReceptiveField:
    """Every `step`-th column. Rows and columns are sliced one after the other; only the columns count."""
    step = args[4] if len(args) > 4 else 1
    return field.after_window(1, step) if args[0].ndim == 4 and len(args) > 1 and args[1] % 4 == 3 else field


def _mean(field: ReceptiveField, args: Sequence[Any]) -> ReceptiveField:
    is_spatial = len(args) < 2 or args[0].ndim < 4 or any(dim % args[0].ndim >= 2 for dim in args[1] or (2,))
    return _global(field, args) if is_spatial else field


_PROPAGATION_RULES: dict[Any, Callable[[ReceptiveField, Sequence[Any]], ReceptiveField]] = {
    _aten.convolution: _convolution,
    _aten.max_pool2d_with_indices: _pool,
    _aten.avg_pool2d: _pool,
    _aten._adaptive_avg_pool2d: _adaptive_pool,
    _aten.adaptive_max_pool2d: _adaptive_pool,
    _aten.slice: _slice,
    _aten.mean: _mean,
    **dict.fromkeys((_aten.addmm, _aten.mm, _aten.bmm, _aten.baddbmm, _aten.sum, _aten.amax), _global),
}


def _batch_norm_outputs(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    is_training = args[4]
    return None if is_training else (torch.empty_like(x), x.new_empty(0), x.new_empty(0))


# On the meta device torch runs a decomposition in Python for these two, most of the time of a network.
_SHAPES: dict[Any, Callable[..., Any]] = {
    _aten.relu.default: torch.empty_like,
    _aten.native_batch_norm.default: _batch_norm_outputs,
}


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
    with (
        lazy_dynamo(),
        _forward_hooks(model, record),
        _eval_mode(model),
        _tracing(model),
        torch.no_grad(),
        tracer,
    ):
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
