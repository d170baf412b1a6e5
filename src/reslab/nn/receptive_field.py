"""Measure receptive fields: trace every operation of any module, for each position of its output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
