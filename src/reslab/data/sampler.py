"""Which samples a step takes: an order for every epoch, cut into batches; with repeats, and balanced over classes.

Uneven classes: samples drawn so that every class comes equally often, and weights for the loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from reslab.data.rng import Draws, again, key, keys, permutation
from reslab.spec.errors import invalid


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
        raise invalid(f"labels below {num_classes}", f"label {int(labels.max())}", nearest=str(num_classes - 1))
    counts = labels.bincount(minlength=num_classes).double()
    there = counts > 0
    return torch.where(there, len(labels) / (there.sum() * counts.clamp_min(1)), 0.0).float()


@dataclass(frozen=True, eq=False)
class Draw:
    """The samples of one step: `indices` (batch,) int64, and of each the number of its copy (0: the first)."""

    step: int
    epoch: int
    indices: Tensor
    copies: Tensor | None = None

    def keys(self, seed: int, device: torch.device) -> Tensor:
        """What the augmentation of each sample depends on: (seed, epoch, sample, copy), (batch,) int64."""
        own = keys(seed, self.epoch, self.indices.to(device, non_blocking=True))
        return own if self.copies is None else again(own, self.copies.to(device, non_blocking=True))

    def part(self, start: int, stop: int) -> "Draw":
        """Those from `start` up to `stop` of the batch."""
        copies = None if self.copies is None else self.copies[start:stop]
        return Draw(self.step, self.epoch, self.indices[start:stop], copies)


class Sampling:
    """Batches of a training set as a function of (seed, step).

    An epoch takes floor(N / batch) batches. With `repeats` R it takes each of N / R samples R times, in R copies that
    are augmented differently and stand apart within their batch (Hoffer et al. 2020, Augment Your Batch; the length of
    an epoch as in timm's RepeatAugSampler). `balanced` draws with replacement, every class equally often.
    Raises ValueError where the batch is larger than the data, or `repeats` less than 1.
    """

    def __init__(self, labels: Tensor, batch: int, seed: int, repeats: int = 1, balanced: bool = False) -> None:
        _check_batch(batch, len(labels))
        if repeats < 1:
            raise invalid("each sample at least once (repeats of 1 or more)", repeats, nearest="1")
        self.labels, self.batch, self.seed, self.repeats, self.balanced = labels, batch, seed, repeats, balanced
        self.num_steps_per_epoch = len(labels) // batch
        self.dropped = len(labels) % batch
        self._order = lru_cache(maxsize=1)(self._order_of)

    def plan(self, start_step: int = 0) -> Iterator[Draw]:
        """The draws of step `start_step`, `start_step` + 1, ... without end."""
        step = start_step
        while True:
            yield self.draw(step)
            step += 1

    def draw(self, step: int) -> Draw:
        """The samples of one step, of the whole batch."""
        epoch, within = divmod(step, self.num_steps_per_epoch)
        order = self._order(epoch)
        first = within * self.batch
        if self.repeats == 1:
            indices = order[first : first + self.batch]
            # A sample that is drawn twice in an epoch is told apart by its place.
            return Draw(step, epoch, indices, torch.arange(first, first + self.batch) if self.balanced else None)
        places = torch.arange(first, first + self.batch)
        # The first copies of all, then the second ones: neighbours, who may be mixed, are different samples.
        places = places[(places % self.repeats).argsort(stable=True)]
        return Draw(step, epoch, order[places // self.repeats], places if self.balanced else places % self.repeats)

    def _order_of(self, epoch: int) -> Tensor:
        if self.balanced:
            return balanced_order(self.labels, len(self.labels), self.seed, epoch)
        return permutation(len(self.labels), self.seed, epoch)


def _check_batch(batch: int, num_samples: int) -> None:
    if batch < 1:
        raise invalid("a batch of at least 1 sample", batch, nearest="1")
    if batch > num_samples:
        raise invalid(
            f"a batch of at most the {num_samples} training samples (an incomplete batch is dropped)",
            f"a batch of {batch}",
            nearest=str(num_samples),
            next_step=f"set the batch to {num_samples} or less",
        )
