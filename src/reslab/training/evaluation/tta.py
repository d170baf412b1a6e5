"""Test-time augmentation: the average of the probabilities over several views of each image.

Views: `flip`, `shift(1)`, `five-crop(224)`, `ten-crop(224)`, `scales(224,256)`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reslab.data.transforms.ops import resize_to, resized_size
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops

ViewFn = Callable[[Tensor, list[int]], list[Tensor]]


def _flip(x: Tensor, _: list[int]) -> list[Tensor]:
    return [x, x.flip(3)]


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


TTA_OPS: dict[str, tuple[str, int, ViewFn]] = {
    "flip": ("flip", 0, _flip),
    "shift": ("shift(1)", 1, _shift),
    "five-crop": ("five-crop(224)", 1, _five_crop),
    "ten-crop": ("ten-crop(224)", 1, _ten_crop),
    "scales": ("scales(224,256,384)", 99, _scales),
}


@dataclass(frozen=True)
class _ViewOp:
    """An operation of the expression, with its sizes in pixels."""

    name: str
    sizes: list[int]

    def make(self, x: Tensor) -> list[Tensor]:
        """Return the views of a batch."""
        return TTA_OPS[self.name][2](x, self.sizes)

    def put_back(self, outputs: Tensor, view: int) -> Tensor:
        """Return the outputs of view number `view` as those of the image; outputs of whole images are the same.

        Raises ValueError for outputs at each pixel (N, C, H, W) of a crop or a resized view.
        """
        if outputs.ndim == 2:
            return outputs
        if self.name != "flip":
            required = "a view that keeps the place of every pixel, for outputs at each pixel"
            raise invalid(required, self.name, nearest="flip")
        return outputs.flip(3) if view else outputs


class TTATransforms(nn.Module):
    """Wrap a model: log of the mean over views of softmax(model(view)); (N, C, H, W) to (N, classes) or (N, C, H, W).

    `flip` is the image and its mirror image; `shift(n)` the image and two that are shifted by n pixels, down and right,
    and up and left, with reflected edges (after Jordan 2024, arXiv:2404.00498, Sec. 3.5, who counts the first view
    twice); `five-crop(s)` the four corners and the center, `ten-crop(s)` these and their mirror images (Krizhevsky et
    al. 2012, Sec. 4.1); `scales(a,b,...)` resizes the shorter side to each of these, bilinear (He et al. 2015, Sec.
    3.4). Several operations are composed: the next one is applied to every view of the one before. The softmax of the
    outputs is the averaged probabilities, so that any evaluation of logits applies.
    Outputs at each pixel are put back before they are averaged, which only `flip` allows.
    Raises ValueError for an unknown operation (with the nearest), wrong arguments, or images that are too small.
    """

    def __init__(self, model: nn.Module, expression: str) -> None:
        super().__init__()
        self.model, self.expression = model, expression
        self._view_ops = [_parse_view_op(op) for op in parse_ops(expression)]

    def views(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the views of a batch one by one."""
        batches = [x]
        for view_op in self._view_ops:
            batches = [view for batch in batches for view in view_op.make(batch)]
        yield from batches

    def _view_log_probs(self, x: Tensor, view_ops: list[_ViewOp]) -> list[Tensor]:
        """Return the log-probabilities of each view of a batch, put back."""
        if not view_ops:
            return [self.model(x).float().log_softmax(1)]
        first, *others = view_ops
        return [
            first.put_back(log_probs, number)
            for number, view in enumerate(first.make(x))
            for log_probs in self._view_log_probs(view, others)
        ]

    def forward(self, x: Tensor) -> Tensor:
        log_probs = self._view_log_probs(x, self._view_ops)
        return torch.stack(log_probs).logsumexp(0) - torch.tensor(float(len(log_probs)), device=x.device).log()


def _parse_view_op(op: Op) -> "_ViewOp":
    if op.name not in TTA_OPS:
        raise unknown_name("view", str(op), TTA_OPS, "views such as 'flip' or 'ten-crop(224)'")
    example, max_args, _ = TTA_OPS[op.name]
    sizes = [arg for arg in op.args if isinstance(arg, int) and arg > 0]
    if len(sizes) != len(op.args) or op.size is not None or not min(1, max_args) <= len(sizes) <= max_args:
        raise invalid(f"{op.name} with whole numbers of pixels, such as {example}", str(op), nearest=example)
    return _ViewOp(op.name, sizes)


def _check_size(x: Tensor, size: int) -> None:
    if min(x.shape[-2:]) < size:
        sides = "x".join(str(side) for side in x.shape[-2:])
        next_step = f"let the evaluation end with center-crop({round(size * 8 / 7)})"
        raise invalid(f"images of at least {size}x{size} to crop", sides, next_step=next_step)
