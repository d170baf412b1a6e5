"""A sentence of augmentation made ready: `pad(4) crop(32) flip`, on a whole batch or on one picture at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reslab.data.rng import RandomDraws
from reslab.data.transforms.arguments import parse_transform_args
from reslab.data.transforms.mixup import BATCH_MIX_OPS, BatchMixer, parse_batch_mixer
from reslab.data.transforms.ops import TRANSFORM_OPS, TransformOp
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops


@dataclass(frozen=True)
class _TransformStep:
    op: TransformOp
    args: tuple[float | str, ...]


class TransformPipeline:
    """The words of a sentence in order; chance only through `keys`, one a sample (`chance.keys`).

    Raises ValueError for an unknown word (with the nearest), arguments it does not take, or a word that mixes pictures
    with their labels (`mixup`, `cutmix`), which only a training batch has: see `split_sentence`.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._steps = tuple(_make_step(op) for op in parse_ops(expression))

    def apply_batch(self, images: Tensor, keys: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W'), `keys` (N,) int64 on the same device."""
        for index, step in enumerate(self._steps):
            images = step.op.apply_batch(images, RandomDraws(keys, index), *step.args)
        return images

    def apply_image(self, image: Tensor, key: int) -> Tensor:
        """One picture (C, H, W) of any size; what `batch` makes of it under the same key."""
        return self.bind_keys(torch.tensor([key]))[0](image)

    def bind_keys(self, keys: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """For every key what `one` does under it, to pictures that come one after another; the draws are shared."""
        draws_by_op = [RandomDraws(keys, index).per_sample() for index in range(len(self._steps))]
        return (
            [partial(self._apply_steps, image_draws) for image_draws in zip(*draws_by_op, strict=True)]
            if draws_by_op
            else [_identity] * len(keys)
        )

    def _apply_steps(self, draws_by_op: Sequence[RandomDraws], image: Tensor) -> Tensor:
        for step, draws in zip(self._steps, draws_by_op, strict=True):
            if step.op.apply_image is not None:
                image = step.op.apply_image(image, draws, *step.args)
            else:
                image = step.op.apply_batch(image[None], draws, *step.args)[0]
        return image


def _identity(image: Tensor) -> Tensor:
    return image


def parse_train_transform(expression: str) -> tuple[TransformPipeline, BatchMixer | None]:
    """What is done to each picture, and how pictures are then mixed: `... flip mixup(0.2) cutmix(1)`.

    Raises ValueError as `Augment` does, and where a word for one picture follows one that mixes.
    """
    ops = parse_ops(expression)
    mix_ops = [op for op in ops if op.name in BATCH_MIX_OPS]
    image_ops = [op for op in ops if op.name not in BATCH_MIX_OPS]
    if mix_ops and list(ops) != image_ops + mix_ops:
        reordered = " ".join(str(op) for op in image_ops + mix_ops)
        raise invalid("the words that mix pictures at the end of the sentence", expression, nearest=reordered)
    return TransformPipeline(" ".join(str(op) for op in image_ops)), parse_batch_mixer(mix_ops) if mix_ops else None


def _make_step(op: Op) -> _TransformStep:
    if op.name in BATCH_MIX_OPS:
        raise invalid(
            "words for one picture here", f"{op}, which mixes the pictures of a training batch with their labels"
        )
    if op.name not in TRANSFORM_OPS:
        known_names = (*TRANSFORM_OPS, *BATCH_MIX_OPS)
        raise unknown_name("augmentation word", str(op), known_names, "words such as 'pad(4) crop(32) flip'")
    transform_op = TRANSFORM_OPS[op.name]
    return _TransformStep(transform_op, parse_transform_args(op, transform_op.args, transform_op.example))
