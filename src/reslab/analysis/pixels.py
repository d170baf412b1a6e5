"""Pictures as they are seen, from the normalised numbers that a network takes; maps as plain numbers."""

import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.subject import Subject
from reslab.report.thumbnails import thumbnail

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
