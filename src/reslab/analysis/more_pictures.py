"""Further pictures of a subject's data, brought to what its network takes."""

import torch
from torch import Tensor
from torch.nn import functional

from reslab.analysis.subject import Subject
from reslab.data.loader import eval_batches
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
