"""The samples of each step: a permutation for every epoch, cut into batches; repeated, or balanced over classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor

from reslab.data.rng import RandomDraws, augmentation_keys, hash_key, hash_keys, permutation
from reslab.data.targets import TASK_OF_TARGET
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind


@dataclass(frozen=True, eq=False)
class StepIndices:
    """The samples of one step: `indices` (batch,) int64; `repeat_index` numbers the copies of a sample from 0."""

    step: int
    epoch: int
    indices: Tensor
    repeat_index: Tensor | None = None

    def augmentation_keys(self, seed: int, device: torch.device, alternates: bool = False) -> Tensor:
        """Return each sample's augmentation key (`reslab.data.rng.augmentation_keys`), (batch,) int64."""
        indices = self.indices.to(device, non_blocking=True)
        repeat_index = None if self.repeat_index is None else self.repeat_index.to(device, non_blocking=True)
        return augmentation_keys(seed, self.epoch, indices, repeat_index, alternates)

    def slice_range(self, start: int, stop: int) -> "StepIndices":
        """Return the samples from `start` up to `stop` of the batch."""
        repeat_index = None if self.repeat_index is None else self.repeat_index[start:stop]
        return StepIndices(self.step, self.epoch, self.indices[start:stop], repeat_index)


class StatelessSampler:
    """The batches of a training set as a function of (seed, step).

    An epoch has floor(N / batch_size) batches. With `num_repeats` R it takes each of N / R samples R times; the copies
    are augmented differently and apart from each other in their batch (Hoffer et al. 2020, Augment Your Batch; the
    length of an epoch as in timm's RepeatAugSampler). `class_balanced` draws every class equally often, with
    replacement.
    Raises ValueError if the batch is larger than the dataset, `num_repeats` is less than 1, or `class_balanced` is set
    for images that have not one class each (`target_kind`).
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        seed: int,
        num_repeats: int = 1,
        class_balanced: bool = False,
        target_kind: TargetKind = TargetKind.CLASS,
    ) -> None:
        _check_batch_size(batch_size, len(labels))
        if class_balanced and target_kind is not TargetKind.CLASS:
            required = "one class per image for class-balanced sampling"
            got = f"labels for {TASK_OF_TARGET[target_kind]}"
            raise invalid(required, got, next_step="set class_balanced_sampling=false")
        if num_repeats < 1:
            raise invalid("num_repeats of 1 or more", num_repeats, nearest="1")
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.num_repeats, self.class_balanced = num_repeats, class_balanced
        self.num_steps_per_epoch = len(labels) // batch_size
        self.num_dropped = len(labels) % batch_size
        self._epoch_order = lru_cache(maxsize=1)(self._compute_epoch_order)

    def iter_indices(self, start_step: int = 0) -> Iterator[StepIndices]:
        """Yield the samples of steps `start_step`, `start_step` + 1, ... without end."""
        return map(self.step_indices, count(start_step))

    def step_indices(self, step: int) -> StepIndices:
        """Return the samples of one step, the whole global batch."""
        epoch, step_in_epoch = divmod(step, self.num_steps_per_epoch)
        order = self._epoch_order(epoch)
        start = step_in_epoch * self.batch_size
        positions = torch.arange(start, start + self.batch_size)
        if self.num_repeats == 1:
            # With replacement a sample may occur twice in an epoch: its position distinguishes the copies.
            return StepIndices(
                step, epoch, order[start : start + self.batch_size], positions if self.class_balanced else None
            )
        # All first copies, then all second copies: neighbors, which MixUp mixes, are different samples.
        positions = positions[(positions % self.num_repeats).argsort(stable=True)]
        repeat_index = positions if self.class_balanced else positions % self.num_repeats
        return StepIndices(step, epoch, order[positions // self.num_repeats], repeat_index)

    def _compute_epoch_order(self, epoch: int) -> Tensor:
        if self.class_balanced:
            return balanced_order(self.labels, len(self.labels), self.seed, epoch)
        return permutation(len(self.labels), self.seed, epoch)


def balanced_order(labels: Tensor, num_samples: int, seed: int, epoch: int) -> Tensor:
    """Draw (num_samples,) int64 samples with replacement, one of class c with probability 1 / (num_classes n_c).

    Draw q is a function of (seed, epoch, q): first a class among those that have samples, then a sample of it.
    """
    counts = labels.bincount()
    classes = counts.nonzero().flatten()
    indices_by_class = labels.argsort(stable=True)
    class_starts = counts.cumsum(0) - counts
    draws = RandomDraws(hash_keys(seed, hash_key(epoch, len(labels)), torch.arange(num_samples)))
    sampled_classes = classes[draws.integers(0, len(classes))]
    # 31 random bits times n_c, shifted: uniform up to one part in 2^31 / n_c.
    offsets = (draws.integers(1, 1 << 31) * counts[sampled_classes]) >> 31
    return indices_by_class[class_starts[sampled_classes] + offsets]


def _check_batch_size(batch_size: int, num_samples: int) -> None:
    if batch_size < 1:
        raise invalid("a batch size of at least 1", batch_size, nearest="1")
    if batch_size > num_samples:
        raise invalid(
            f"a batch size of at most {num_samples}, the number of training samples (an incomplete batch is dropped)",
            batch_size,
            nearest=str(num_samples),
        )
