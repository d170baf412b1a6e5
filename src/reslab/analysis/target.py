"""A model with the images it is analyzed on: its batches, scores, samples and thumbnails."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reslab.analysis.progress import report_progress
from reslab.data.dataset import DatasetSplits
from reslab.data.loader import eval_loader
from reslab.nn.network import ResidualNetwork
from reslab.nn.third_party import to_residual_network
from reslab.report.thumbnails import make_thumbnail
from reslab.spec.errors import invalid
from reslab.spec.preprocess import ChannelOrder
from reslab.training.run import Run

# As `data`: noise in place of the images of a dataset.
RANDOM_IMAGES = "random"
BATCH_SIZE = 250
MAX_MAP_SIZE = 56
_NUM_CHECK_IMAGES = 8


@dataclass(frozen=True, eq=False)
class AnalysisTarget:
    """A model in float32 and eval mode, with normalized `images` (N, C, H, W) and their `labels` (N,), int64.

    `name` is what the user wrote (`resnet56_cifar`, `runs/a`, `runs/a@390`). `run` and `step` belong to the weights of
    a run. `data` is the dataset of the images; it is None for random images and for images that the caller passed.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    data: DatasetSplits | None = None
    classes: tuple[str, ...] = ()
    run: Run | None = None
    step: int | None = None

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number where it has no name."""
        return self.classes[label] if label < len(self.classes) else str(label)


def as_residual_network(target: AnalysisTarget) -> ResidualNetwork:
    """Return the target's model as a `ResidualNetwork`, whose blocks split into shortcut and branch.

    A third-party module is converted to the zoo's network that computes the same outputs on the first images (see
    `reslab.nn.third_party`). Raises ValueError if there is no such network, or if the network has no blocks.
    """
    network = to_residual_network(target.model, target.images[:_NUM_CHECK_IMAGES])
    if not network.arch.depths:
        raise invalid("a network with blocks", f"{target.name}, which has none", nearest="book_res")
    if network is not target.model:
        report_progress(f"{target.name} is analyzed as {network.arch.name}, which computes the same outputs")
    return network


@dataclass(frozen=True)
class EvalScore:
    """The error (fraction of wrong predictions) and the mean cross-entropy over `num_images` images."""

    error: float
    loss: float
    num_images: int


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """Batches of (images, labels): the target's own images, or a whole `split` of its dataset. Iterate it repeatedly.

    Raises ValueError for an unknown split, and for a split of a target without a dataset.
    """

    target: AnalysisTarget
    split: str = ""

    def __post_init__(self) -> None:
        if self.split and self.target.data is None:
            raise invalid("images of a dataset with splits", f"split={self.split}, but no dataset", "split=")
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
    """Return the error and loss of `model` over all batches, with its current weights, in its current mode."""
    num_wrong, total_loss, num_samples = 0, 0.0, 0
    for x, y in batches:
        logits = model(x).float()
        num_wrong += int((logits.argmax(1) != y).sum())
        total_loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        num_samples += len(y)
    return EvalScore(num_wrong / num_samples, total_loss / num_samples, num_samples)


def sample_images(target: AnalysisTarget, split: str, max_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return at most `max_images` random images of a split and their labels, in the split's order, on the device.

    The images have the shape of the target's own. Raises ValueError for an unknown split, and for a target without a
    dataset.
    """
    if target.data is None:
        raise invalid("images of a dataset", f"{target.name}, whose images come from none", next_step="--data NAME")
    dataset = target.data.split(split)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    subset = dataset.subset(sorted(order[:max_images].tolist()))
    batches = eval_loader(subset, BATCH_SIZE, target.data.preprocess, target.images.device)
    collected = [(match_shape(x, target.images), y) for x, y, _ in batches]
    return torch.cat([x for x, _ in collected]), torch.cat([y for _, y in collected])


def match_shape(x: Tensor, reference: Tensor) -> Tensor:
    """Return normalized images with the channels and size of `reference`: gray repeated, color averaged, resized."""
    channels = reference.shape[1]
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1).contiguous() if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if x.shape[-2:] != reference.shape[-2:]:
        x = functional.interpolate(x, reference.shape[-2:], mode="bilinear", antialias=True)
    return x


def image_data_uri(target: AnalysisTarget, index: int) -> str:
    """Return an image of the target as the data URI of a thumbnail.

    The normalization is undone where it is known; otherwise the values are scaled to the whole range of gray.
    """
    image = target.images[index].detach().cpu().float()
    preprocess = target.data.preprocess if target.data is not None else None
    if preprocess is not None and len(preprocess.mean) in (1, len(image)):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
        image = image * std + mean
        image = image.flip(0) if preprocess.channel_order == ChannelOrder.BGR else image
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-12)
    average_channels = len(image) not in (1, 3)
    image = image.mean(0, keepdim=True) if average_channels else image
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return make_thumbnail(pixels).uri


def map_to_rows(feature_map: Tensor, max_size: int = MAX_MAP_SIZE) -> tuple[tuple[float, ...], ...]:
    """Return a map (h, w) as rows of numbers with five digits, average-pooled to at most `max_size` on each side."""
    feature_map = feature_map.detach().cpu().float()
    if max(feature_map.shape) > max_size:
        size = (min(feature_map.shape[0], max_size), min(feature_map.shape[1], max_size))
        feature_map = functional.adaptive_avg_pool2d(feature_map[None], size)[0]
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in feature_map.tolist())
