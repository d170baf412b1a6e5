"""How far each place of a tensor sees: the receptive field, followed through every operation of any module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


@dataclass(frozen=True)
class Seen:
    """Of one place: input pixels along a side that it depends on (None: all of them), and the input pixels from one
    place to the next."""

    field: int | None = 1
    jump: int = 1

    def through(self, kernel: int, stride: int, dilation: int = 1) -> "Seen":
        """After a window: r + (kernel - 1) * dilation * jump, the jump times the stride."""
        wider = None if self.field is None else self.field + (kernel - 1) * dilation * self.jump
        return Seen(wider, self.jump * stride)

    def beside(self, other: "Seen") -> "Seen":
        """Of a place that reads both: the wider field."""
        field = None if self.field is None or other.field is None else max(self.field, other.field)
        return Seen(field, max(self.jump, other.jump))


class Fields(TorchDispatchMode):
    """Follows what every tensor sees of the one it was begun with, while modules run inside the block.

    r = 1 + sum of (kernel - 1) * dilation * (product of strides before) over the convolutions and pools on the widest
    way; Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Eq. 2. A product
    of matrices, a mean over places and an adaptive pool to one place see everything; norms count as if each place
    stood alone.
    """

    def __init__(self, source: Tensor) -> None:
        super().__init__()
        # The tensors are kept, so that no id is given twice; on the meta device they hold no numbers.
        self._known: dict[int, tuple[Tensor, Seen]] = {id(source): (source, Seen())}

    def of(self, tensor: Tensor) -> Seen | None:
        """What a tensor sees; None where it does not come from the source."""
        found = self._known.get(id(tensor))
        return None if found is None else found[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        seen = self._read(func, args)
        if seen is not None:
            for tensor in output if isinstance(output, list | tuple) else (output,):
                if isinstance(tensor, Tensor):
                    self._known[id(tensor)] = (tensor, seen)
        return output

    def _read(self, func: Any, args: Sequence[Any]) -> Seen | None:
        flat = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else (arg,))]
        known = [seen for arg in flat if isinstance(arg, Tensor) and (seen := self.of(arg)) is not None]
        if not known:
            return None
        seen = known[0]
        for other in known[1:]:
            seen = seen.beside(other)
        rule = _RULES.get(func.overloadpacket)
        return seen if rule is None else rule(seen, args)


def _everything(seen: Seen, args: Sequence[Any]) -> Seen:
    return Seen(None, seen.jump)


def _convolution(seen: Seen, args: Sequence[Any]) -> Seen:
    weight, stride, dilation = args[1], args[3], args[5]
    return seen.through(max(weight.shape[2:]), max(stride), max(dilation))


def _pool(seen: Seen, args: Sequence[Any]) -> Seen:
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    return seen.through(max(kernel), max(stride))


def _adaptive(seen: Seen, args: Sequence[Any]) -> Seen:
    sides, wanted = args[0].shape[-2:], args[1]
    return seen.through(*[-(-max(sides) // max(wanted))] * 2) if max(wanted) > 1 else _everything(seen, args)


def _slice(seen: Seen, args: Sequence[Any]) -> Seen:
    """Every `step`-th column; rows and columns are taken in two slices, of which one counts."""
    step = args[4] if len(args) > 4 else 1
    return seen.through(1, step) if args[0].ndim == 4 and len(args) > 1 and args[1] % 4 == 3 else seen


def _mean(seen: Seen, args: Sequence[Any]) -> Seen:
    spatial = len(args) < 2 or args[0].ndim < 4 or any(dim % args[0].ndim >= 2 for dim in args[1] or (2,))
    return _everything(seen, args) if spatial else seen


_RULES: dict[Any, Callable[[Seen, Sequence[Any]], Seen]] = {
    _aten.convolution: _convolution,
    _aten.max_pool2d_with_indices: _pool,
    _aten.avg_pool2d: _pool,
    _aten._adaptive_avg_pool2d: _adaptive,
    _aten.adaptive_max_pool2d: _adaptive,
    _aten.slice: _slice,
    _aten.mean: _mean,
    **dict.fromkeys((_aten.addmm, _aten.mm, _aten.bmm, _aten.baddbmm, _aten.sum, _aten.amax), _everything),
}
