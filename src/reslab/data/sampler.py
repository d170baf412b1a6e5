"""Which samples a step takes: an order for every epoch, cut into batches; with repeats, and balanced over classes.

Uneven classes: samples drawn so that every class comes equally often, and weights for the loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from reslab.data.rng import RandomDraws, hash_key, hash_keys, permutation, repeat_keys
from reslab.spec.errors import invalid


def balanced_order(labels: Tensor, num_samples: int, seed: int, epoch: int) -> Tensor:
    """`num` samples drawn with replacement, with probability 1 / (classes * samples of its class); (num,) int64.

    Draw q is a function of (seed, epoch, q): a class of those that have samples, then a sample of it.
    """
    counts = labels.bincount()
    classes = counts.nonzero().flatten()
    indices_by_class = labels.argsort(stable=True)
    class_starts = counts.cumsum(0) - counts
    draws = RandomDraws(hash_keys(seed, hash_key(epoch, len(labels)), torch.arange(num_samples)))
    sampled_classes = classes[draws.integers(0, len(classes))]
    # A product of 31 random bits and the count, shifted: even to one part in 2^31 / count.
    offsets = (draws.integers(1, 1 << 31) * counts[sampled_classes]) >> 31
    return indices_by_class[class_starts[sampled_classes] + offsets]


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """N / (K n_c) for the loss, K the classes that have samples, 0 for the others: (num_classes,) float32.

    Their mean over the samples is 1 (scikit-learn's "balanced"; King and Zeng 2001, Political Analysis 9: 137-163).
    Raises ValueError where a label is not below `num_classes`.
    """
    if len(labels) and int(labels.max()) >= num_classes:
        raise invalid(f"labels below {num_classes}", f"label {int(labels.max())}", nearest=str(num_classes - 1))
    counts = labels.bincount(minlength=num_classes).double()
    is_present = counts > 0
    return torch.where(is_present, len(labels) / (is_present.sum() * counts.clamp_min(1)), 0.0).float()


@dataclass(frozen=True, eq=False)
class StepIndices:
    """The samples of one step: `indices` (batch,) int64, and of each the number of its copy (0: the first)."""

    step: int
    epoch: int
    indices: Tensor
    repeat_index: Tensor | None = None

    def augmentation_keys(self, seed: int, device: torch.device) -> Tensor:
        """What the augmentation of each sample depends on: (seed, epoch, sample, copy), (batch,) int64."""
        first_keys = hash_keys(seed, self.epoch, self.indices.to(device, non_blocking=True))
        return (
            first_keys
            if self.repeat_index is None
            else repeat_keys(first_keys, self.repeat_index.to(device, non_blocking=True))
        )

    def slice_range(self, start: int, stop: int) -> "StepIndices":
        """Those from `start` up to `stop` of the batch."""
        repeat_index = None if self.repeat_index is None else self.repeat_index[start:stop]
        return StepIndices(self.step, self.epoch, self.indices[start:stop], repeat_index)


class StatelessSampler:
    """Batches of a training set as a function of (seed, step).

    An epoch takes floor(N / batch) batches. With `repeats` R it takes each of N / R samples R times, in R copies that
    are augmented differently and stand apart within their batch (Hoffer et al. 2020, Augment Your Batch; the length of
    an epoch as in timm's RepeatAugSampler). `balanced` draws with replacement, every class equally often.
    Raises ValueError where the batch is larger than the data, or `repeats` less than 1.
    """

    def __init__(
        self, labels: Tensor, batch_size: int, seed: int, num_repeats: int = 1, class_balanced: bool = False
    ) -> None:
        _check_batch_size(batch_size, len(labels))
        if num_repeats < 1:
            raise invalid("each sample at least once (repeats of 1 or more)", num_repeats, nearest="1")
        self.labels, self.batch_size, self.seed, self.num_repeats, self.class_balanced = (
            labels,
            batch_size,
            seed,
            num_repeats,
            class_balanced,
        )
        self.num_steps_per_epoch = len(labels) // batch_size
        self.num_dropped = len(labels) % batch_size
        self._epoch_order = lru_cache(maxsize=1)(self._compute_epoch_order)

    def iter_indices(self, start_step: int = 0) -> Iterator[StepIndices]:
        """The draws of step `start_step`, `start_step` + 1, ... without end."""
        step = start_step
        while True:
            yield self.step_indices(step)
            step += 1

    def step_indices(self, step: int) -> StepIndices:
        """The samples of one step, of the whole batch."""
        epoch, step_in_epoch = divmod(step, self.num_steps_per_epoch)
        order = self._epoch_order(epoch)
        start = step_in_epoch * self.batch_size
        if self.num_repeats == 1:
            indices = order[start : start + self.batch_size]
            # A sample that is drawn twice in an epoch is told apart by its place.
            return StepIndices(
                step, epoch, indices, torch.arange(start, start + self.batch_size) if self.class_balanced else None
            )
        positions = torch.arange(start, start + self.batch_size)
        # The first copies of all, then the second ones: neighbours, who may be mixed, are different samples.
        positions = positions[(positions % self.num_repeats).argsort(stable=True)]
        return StepIndices(
            step,
            epoch,
            order[positions // self.num_repeats],
            positions if self.class_balanced else positions % self.num_repeats,
        )

    def _compute_epoch_order(self, epoch: int) -> Tensor:
        if self.class_balanced:
            return balanced_order(self.labels, len(self.labels), self.seed, epoch)
        return permutation(len(self.labels), self.seed, epoch)


def _check_batch_size(batch_size: int, num_samples: int) -> None:
    if batch_size < 1:
        raise invalid("a batch of at least 1 sample", batch_size, nearest="1")
    if batch_size > num_samples:
        raise invalid(
            f"a batch of at most the {num_samples} training samples (an incomplete batch is dropped)",
            f"a batch of {batch_size}",
            nearest=str(num_samples),
            next_step=f"set the batch to {num_samples} or less",
        )
