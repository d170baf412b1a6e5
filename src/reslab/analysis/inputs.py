"""The error of a network on a subject's pictures, or on a whole split of its data.

Further pictures of a subject's data, brought to what its network takes.

Pictures as they are seen, from the normalised numbers that a network takes; maps as plain numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.subject import Subject
from reslab.data.loader import eval_batches
from reslab.report.plots.images import thumbnail
from reslab.spec.errors import refuse


def more_pictures(subject: Subject, split: str, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most `most` pictures of a split by chance, in the split's order, and their labels; on the subject's device.

    Raises ValueError for an unknown split, and where the subject's pictures are of no data set.
    """
    if subject.data is None:
        raise refuse("pictures of a data set", f"{subject.name} with pictures of none", next_step="--data NAME")
    images = subject.data.split(split)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = images.subset(sorted(order[:most].tolist()))
    batches = eval_batches(chosen, 250, subject.data.preprocess, subject.images.device)
    found = [(fitted(x, subject.images), y) for x, y, _ in batches]
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def fitted(x: Tensor, like: Tensor) -> Tensor:
    """Normalised pictures with the channels and the size of others: grey ones repeated, coloured ones averaged."""
    channels = like.shape[1]
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1).contiguous() if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if x.shape[-2:] != like.shape[-2:]:
        x = functional.interpolate(x, like.shape[-2:], mode="bilinear", antialias=True)
    return x


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


MOST_CELLS = 56


def picture(subject: Subject, index: int) -> str:
    """The subject's picture as a small image in a data URI, its normalisation undone where it is known."""
    image = subject.images[index].detach().cpu().float()
    known = subject.data.preprocess if subject.data is not None else None
    if known is not None and len(known.mean) in (1, len(image)):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (known.mean, known.std))
        image = image * std + mean
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-12)
    grey = len(image) not in (1, 3)
    image = image.mean(0, keepdim=True) if grey else image
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return thumbnail(pixels).uri


def plain(found: Tensor, most: int = MOST_CELLS) -> tuple[tuple[float, ...], ...]:
    """A map (h, w) as rows of numbers of five digits, pooled to `most` a side where it is larger."""
    found = found.detach().cpu().float()
    if max(found.shape) > most:
        size = (min(found.shape[0], most), min(found.shape[1], most))
        found = functional.adaptive_avg_pool2d(found[None], size)[0]
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in found.tolist())


def class_name(subject: Subject, label: int) -> str:
    """The name of a class, its number where it has none."""
    return subject.classes[label] if label < len(subject.classes) else str(label)
