"""The error of a network on a subject's pictures, or on a whole split of its data.

Further pictures of a subject's data, brought to what its network takes.

Pictures as they are seen, from the normalised numbers that a network takes; maps as plain numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.subject import AnalysisTarget
from reslab.data.loader import eval_loader
from reslab.report.plots.images import make_thumbnail
from reslab.spec.errors import invalid


def sample_images(target: AnalysisTarget, split: str, max_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most `most` pictures of a split by chance, in the split's order, and their labels; on the subject's device.

    Raises ValueError for an unknown split, and where the subject's pictures are of no data set.
    """
    if target.data is None:
        raise invalid("pictures of a data set", f"{target.name} with pictures of none", next_step="--data NAME")
    dataset = target.data.split(split)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    subset = dataset.subset(sorted(order[:max_images].tolist()))
    batches = eval_loader(subset, 250, target.data.preprocess, target.images.device)
    collected = [(match_shape(x, target.images), y) for x, y, _ in batches]
    return torch.cat([x for x, _ in collected]), torch.cat([y for _, y in collected])


def match_shape(x: Tensor, reference: Tensor) -> Tensor:
    """Normalised pictures with the channels and the size of others: grey ones repeated, coloured ones averaged."""
    channels = reference.shape[1]
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1).contiguous() if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if x.shape[-2:] != reference.shape[-2:]:
        x = functional.interpolate(x, reference.shape[-2:], mode="bilinear", antialias=True)
    return x


BATCH_SIZE = 250


@dataclass(frozen=True)
class EvalScore:
    """Fraction of pictures called wrong, and the mean cross-entropy, over `num_images`."""

    error: float
    loss: float
    num_images: int


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """Where pictures come from: the subject's own, or every one of a split; iterated any number of times."""

    target: AnalysisTarget
    split: str = ""

    def __post_init__(self) -> None:
        if self.split and self.target.data is None:
            raise invalid("pictures of a data set with splits", f"split={self.split}, and pictures of none", "split=")
        if self.split and self.target.data is not None:
            self.target.data.split(self.split)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels, data = self.target.images, self.target.labels, self.target.data
        if not self.split or data is None:
            yield from zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
            return
        for x, y, _ in eval_loader(data.split(self.split), BATCH_SIZE, data.preprocess, images.device):
            yield match_shape(x, images), y


@torch.no_grad()
def score_model(model: nn.Module, batches: EvalBatches) -> EvalScore:
    """Error and loss of `model`, as it is now, over all the examples."""
    num_wrong, total_loss, num_samples = 0, 0.0, 0
    for x, y in batches:
        logits = model(x).float()
        num_wrong += int((logits.argmax(1) != y).sum())
        total_loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        num_samples += len(y)
    return EvalScore(num_wrong / num_samples, total_loss / num_samples, num_samples)


MAX_MAP_SIZE = 56


def image_data_uri(target: AnalysisTarget, index: int) -> str:
    """The subject's picture as a small image in a data URI, its normalisation undone where it is known."""
    image = target.images[index].detach().cpu().float()
    preprocess = target.data.preprocess if target.data is not None else None
    if preprocess is not None and len(preprocess.mean) in (1, len(image)):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
        image = image * std + mean
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-12)
    average_channels = len(image) not in (1, 3)
    image = image.mean(0, keepdim=True) if average_channels else image
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return make_thumbnail(pixels).uri


def map_to_rows(feature_map: Tensor, max_size: int = MAX_MAP_SIZE) -> tuple[tuple[float, ...], ...]:
    """A map (h, w) as rows of numbers of five digits, pooled to `most` a side where it is larger."""
    feature_map = feature_map.detach().cpu().float()
    if max(feature_map.shape) > max_size:
        size = (min(feature_map.shape[0], max_size), min(feature_map.shape[1], max_size))
        feature_map = functional.adaptive_avg_pool2d(feature_map[None], size)[0]
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in feature_map.tolist())


def class_name(target: AnalysisTarget, label: int) -> str:
    """The name of a class, its number where it has none."""
    return target.classes[label] if label < len(target.classes) else str(label)
