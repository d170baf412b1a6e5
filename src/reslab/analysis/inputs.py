"""The error of a network on a subject's pictures, or on a whole split of its data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.more_pictures import fitted
from reslab.analysis.subject import Subject
from reslab.data.loader import eval_batches
from reslab.spec.errors import refuse

BATCH = 250


@dataclass(frozen=True)
class Score:
    """Fraction of pictures called wrong, and the mean cross-entropy, over `num_images`."""

    error: float
    loss: float
    num_images: int


@dataclass(frozen=True, eq=False)
class Examples:
    """Where pictures come from: the subject's own, or every one of a split; iterated any number of times."""

    subject: Subject
    split: str = ""

    def __post_init__(self) -> None:
        if self.split and self.subject.data is None:
            raise refuse("pictures of a data set with splits", f"split={self.split}, and pictures of none", "split=")
        if self.split and self.subject.data is not None:
            self.subject.data.split(self.split)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels, data = self.subject.images, self.subject.labels, self.subject.data
        if not self.split or data is None:
            yield from zip(images.split(BATCH), labels.split(BATCH), strict=True)
            return
        for x, y, _ in eval_batches(data.split(self.split), BATCH, data.preprocess, images.device):
            yield fitted(x, images), y


@torch.no_grad()
def score(model: nn.Module, examples: Examples) -> Score:
    """Error and loss of `model`, as it is now, over all the examples."""
    wrong, loss, number = 0, 0.0, 0
    for x, y in examples:
        logits = model(x).float()
        wrong += int((logits.argmax(1) != y).sum())
        loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        number += len(y)
    return Score(wrong / number, loss / number, number)
