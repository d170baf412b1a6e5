"""Test-time augmentation: the mean of the outputs over several views of each image.

Views: `flip`, `vertical-flip`, `shift(1)`, `five-crop(224)`, `ten-crop(224)`, `scales(224,256)`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from reslab.data.transforms.ops import resize_to, resized_size
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.training.tasks.task_type import TaskType

ViewFn = Callable[[Tensor, list[int]], list[Tensor]]


def _shift(x: Tensor, sizes: list[int]) -> list[Tensor]:
    size, (height, width) = sizes[0], x.shape[-2:]
    if size >= min(height, width):
        nearest = f"shift({min(height, width) - 1})" if min(height, width) > 1 else ""
        raise invalid(f"images with sides over {size} for shift({size})", f"{height}x{width}", nearest)
    padded = pad(x, (size,) * 4, mode="reflect")
    return [x, *(padded[..., start : start + height, start : start + width] for start in (0, 2 * size))]


def _five_crop(x: Tensor, sizes: list[int]) -> list[Tensor]:
    from torchvision.transforms.v2 import functional as F

    _check_size(x, sizes[0])
    return list(F.five_crop(x, [sizes[0], sizes[0]]))


def _ten_crop(x: Tensor, sizes: list[int]) -> list[Tensor]:
    from torchvision.transforms.v2 import functional as F

    _check_size(x, sizes[0])
    return list(F.ten_crop(x, [sizes[0], sizes[0]]))


def _scales(x: Tensor, sizes: list[int]) -> list[Tensor]:
    height, width = x.shape[-2:]
    return [resize_to(x, *resized_size(height, width, size), "bilinear") for size in sizes]


@dataclass(frozen=True)
class ViewKind:
    """An operation: how many sizes in pixels it has at most, its views, and the axis that its second view mirrors.

    The axis is None for views that move pixels in another way.
    """

    example: str
    max_sizes: int
    make: ViewFn
    mirrored_axis: int | None = None


def _mirror(name: str, axis: int) -> ViewKind:
    return ViewKind(name, 0, lambda x, sizes: [x, x.flip(axis)], axis)


TTA_OPS: dict[str, ViewKind] = {
    "flip": _mirror("flip", -1),
    "vertical-flip": _mirror("vertical-flip", -2),
    "shift": ViewKind("shift(1)", 1, _shift),
    "five-crop": ViewKind("five-crop(224)", 1, _five_crop),
    "ten-crop": ViewKind("ten-crop(224)", 1, _ten_crop),
    "scales": ViewKind("scales(224,256,384)", 99, _scales),
}


@dataclass(frozen=True)
class _ViewOp:
    """An operation of the expression, with its sizes in pixels."""

    kind: ViewKind
    sizes: list[int]


class TTATransforms(nn.Module):
    """Wrap a model: the mean of its outputs over views of a batch of images, as `TaskType.average_views` defines it.

    `flip` is the image and its mirror image, `vertical-flip` that with the rows reversed; `shift(n)` the image and two
    that are shifted by n pixels, down and right, and up and left, with reflected edges (after Jordan 2024,
    arXiv:2404.00498, Sec. 3.5, who counts the first view twice); `five-crop(s)` the four corners and the center,
    `ten-crop(s)` these and their mirror images (Krizhevsky et al. 2012, Sec. 4.1); `scales(a,b,...)` resizes the
    shorter side to each of these, bilinear (He et al. 2015, Sec. 3.4). Several operations are composed: the next one is
    applied to every view of the one before. Masks and boxes are put back before they are averaged, which only the
    flips allow.
    Raises ValueError for an unknown operation (with the nearest), wrong arguments, images that are too small, and
    signals and volumes for views of images.
    """

    def __init__(self, model: nn.Module, expression: str, task: TaskType) -> None:
        super().__init__()
        self.model, self.expression, self.task = model, expression, task
        self._view_ops = [_parse_view_op(op, task) for op in parse_ops(expression)]

    def views(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the views of a batch one by one."""
        for view, _ in _make_views(x, self._view_ops):
            yield view

    def forward(self, x: Any) -> Any:
        """Return the outputs for a batch N C H W, or, of a detector, for a list of images C H W."""
        if isinstance(x, Tensor):
            for view_op in self._view_ops:
                _check_dims(x, view_op.kind)
            return self._average(x, self.model)
        return [self._average(image, lambda view: self.model([view])[0]) for image in x]

    def _average(self, x: Tensor, model: Callable[[Tensor], Any]) -> Any:
        outputs = []
        for view, axes in _make_views(x, self._view_ops):
            view_outputs = self.task.main_output(model(view))
            outputs.append(self.task.mirror_outputs(view_outputs, axes, view.shape[-2:]) if axes else view_outputs)
        return self.task.average_views(outputs)


def _make_views(x: Tensor, view_ops: list[_ViewOp]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield each view with the axes along which it is mirrored."""
    if not view_ops:
        yield x, ()
        return
    first, *others = view_ops
    axis = first.kind.mirrored_axis
    for number, view in enumerate(first.kind.make(x, first.sizes)):
        mirrored = (axis,) if axis is not None and number > 0 else ()
        for last_view, axes in _make_views(view, others):
            yield last_view, (*mirrored, *axes)


def _parse_view_op(op: Op, task: TaskType) -> _ViewOp:
    if op.name not in TTA_OPS:
        raise unknown_name("view", str(op), TTA_OPS, "views such as 'flip' or 'ten-crop(224)'")
    kind = TTA_OPS[op.name]
    sizes = [arg for arg in op.args if isinstance(arg, int) and arg > 0]
    if len(sizes) != len(op.args) or op.size is not None or not min(1, kind.max_sizes) <= len(sizes) <= kind.max_sizes:
        required = f"{op.name} with whole numbers of pixels, such as {kind.example}"
        raise invalid(required, str(op), nearest=kind.example)
    if task.has_positions and kind.mirrored_axis is None:
        required = f"a view that keeps the place of every pixel, for {task.spec.name}"
        raise invalid(required, str(op), nearest="flip")
    return _ViewOp(kind, sizes)


def _check_dims(x: Tensor, kind: ViewKind) -> None:
    """Raise ValueError for a view of images where x are signals (N, C, T), whose channels it would take for rows.

    Of signals `flip` reverses the time; of volumes (N, C, D, H, W) the flips mirror each slice.
    """
    allowed_dims = {-1: (1, 2, 3), -2: (2, 3), None: (2,)}[kind.mirrored_axis]
    if x.ndim - 2 not in allowed_dims:
        noun = "signals" if x.ndim == 3 else "volumes"
        raise invalid(f"images for the view {kind.example}", f"{noun} of shape {tuple(x.shape)}", nearest="flip")


def _check_size(x: Tensor, size: int) -> None:
    if min(x.shape[-2:]) < size:
        sides = "x".join(str(side) for side in x.shape[-2:])
        next_step = f"let the evaluation end with center-crop({round(size * 8 / 7)})"
        raise invalid(f"images of at least {size}x{size} to crop", sides, next_step=next_step)
