"""Uneven classes: samples drawn so that every class comes equally often, and weights for the loss."""

import torch
from torch import Tensor

from reslab.data.rng import Draws, key, keys
from reslab.spec.errors import refuse


def balanced_order(labels: Tensor, num: int, seed: int, epoch: int) -> Tensor:
    """`num` samples drawn with replacement, with probability 1 / (classes * samples of its class); (num,) int64.

    Draw q is a function of (seed, epoch, q): a class of those that have samples, then a sample of it.
    """
    counts = labels.bincount()
    classes = counts.nonzero().flatten()
    by_class = labels.argsort(stable=True)
    first = counts.cumsum(0) - counts
    draws = Draws(keys(seed, key(epoch, len(labels)), torch.arange(num)))
    drawn = classes[draws.integers(0, len(classes))]
    # A product of 31 random bits and the count, shifted: even to one part in 2^31 / count.
    within = (draws.integers(1, 1 << 31) * counts[drawn]) >> 31
    return by_class[first[drawn] + within]


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (K n_c) for the loss, K the classes that have samples, 0 for the others: (num_classes,) float32.

    Their mean over the samples is 1 (scikit-learn's "balanced"; King and Zeng 2001, Political Analysis 9: 137-163).
    Raises ValueError where a label is not below `num_classes`.
    """
    if len(labels) and int(labels.max()) >= num_classes:
        raise refuse(f"labels below {num_classes}", f"label {int(labels.max())}", nearest=str(num_classes - 1))
    counts = labels.bincount(minlength=num_classes).double()
    there = counts > 0
    return torch.where(there, len(labels) / (there.sum() * counts.clamp_min(1)), 0.0).float()
