"""Averages of training metrics over a window of steps, and summaries of a run's log at its end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reslab.runtime.distributed import ProcessGroup
from reslab.spec.errors import invalid


class NonFiniteError(ValueError):
    """The loss, a weight or a running statistic is NaN or infinite; of an evaluation, because of its `bad_images`."""

    on_every_rank = True

    def __init__(self, text: str, bad_images: tuple[int, ...] = ()) -> None:
        super().__init__(text)
        self.bad_images = bad_images


def count_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the number of samples whose largest output is their class.

    `outputs` are (N, classes), `targets` (N,), or class probabilities (N, classes) whose largest counts as the class.
    Raises ValueError for other shapes.
    """
    if outputs.ndim != 2 or targets.shape not in (outputs.shape[:1], outputs.shape):
        raise invalid(
            "outputs of shape (N, classes) and targets of shape (N,) or (N, classes)",
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}",
        )
    if targets.ndim == 2:
        targets = targets.argmax(1)
    return (outputs.detach().argmax(1) == targets).sum()


class TrainMeter:
    """Averages the metrics of the steps from `first_step` on; values stay on the device until they are read.

    A floating-point metric is a mean over the batch: its average is the mean over the steps. An integer metric counts
    samples: its average is the sum divided by the number of samples. With several ranks a value first covers this
    rank's part of the batch; `all_reduce` makes it that of the whole batch.
    """

    def __init__(self, first_step: int = 0) -> None:
        self.reset(first_step)

    def reset(self, first_step: int) -> None:
        """Start a new window at `first_step`."""
        self.first_step = first_step
        self.values: dict[str, list[Tensor]] = {}
        self.num_samples = 0
        self.seconds = 0.0
        self._num_reduced_steps = 0
        self._num_reduced_samples = 0

    @property
    def num_steps(self) -> int:
        """The number of steps in the window."""
        return max((len(values) for values in self.values.values()), default=0)

    def update(self, metrics: Mapping[str, Tensor], num_samples: int) -> None:
        """Add the scalar metrics of one step on `num_samples` samples."""
        for name, value in metrics.items():
            value = value.detach()
            wide = value if value.dtype in (torch.float64, torch.int64) else value.float()
            self.values.setdefault(name, []).append(wide)
        self.num_samples += num_samples

    def last(self, name: str) -> Tensor:
        """Return a metric's value at the last step."""
        return self.values[name][-1]

    def all_reduce(self, process_group: ProcessGroup) -> None:
        """Combine the values of the ranks since the last call: the mean of their means, the sum of their counts."""
        if process_group.world_size > 1 and self.num_steps > self._num_reduced_steps:
            self.merge(process_group.all_gather(self.local_part()))
        self._num_reduced_steps, self._num_reduced_samples = self.num_steps, self.num_samples

    def local_part(self) -> tuple[list[list[float]], int]:
        """Return the values of this rank since the last `all_reduce`, by metric and step, and its number of samples."""
        new_steps = slice(self._num_reduced_steps, None)
        stacks = [values[new_steps] for values in self.values.values()]
        local = [torch.stack(values).cpu().double().tolist() if values else [] for values in stacks]
        return local, self.num_samples - self._num_reduced_samples

    def merge(self, parts: Sequence[tuple[list[list[float]], int]]) -> None:
        """Replace the values since the last `all_reduce` by those of all ranks, given the equally long part of each."""
        new_steps = slice(self._num_reduced_steps, None)
        # Summed in the order of ranks, so that all ranks and all runs get the same rounding.
        totals = torch.tensor([values for values, _ in parts], dtype=torch.float64).sum(0)
        for values, total in zip(self.values.values(), totals, strict=True):
            last = values[-1]
            reduced = total / len(parts) if last.is_floating_point() else total
            values[new_steps] = list(reduced.to(device=last.device, dtype=last.dtype))
        num_local_samples = self.num_samples - self._num_reduced_samples
        self.num_samples += sum(count for _, count in parts) - num_local_samples
        self._num_reduced_steps, self._num_reduced_samples = self.num_steps, self.num_samples

    def averages(self) -> dict[str, float]:
        """Return the average of every metric. Raises NonFiniteError like `check_finite`."""
        self.check_finite()
        return {name: self._average(torch.stack(values)) for name, values in self.values.items()}

    def _average(self, values: Tensor) -> float:
        if values.is_floating_point():
            return values.cpu().double().mean().item()
        return int(values.sum()) / self.num_samples

    def check_finite(self) -> None:
        """Raise NonFiniteError if a metric is NaN or infinite, with the first step at which it is."""
        for name, steps in self.values.items():
            values = torch.stack(steps)
            bad_indices = (~values.isfinite()).nonzero()
            if len(bad_indices):
                index = int(bad_indices[0])
                raise NonFiniteError(f"the {name} is {values[index].item()} at step {self.first_step + index}")

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers for a checkpoint; call `all_reduce` first."""
        return {
            "first_step": self.first_step,
            "values": {name: [value.cpu() for value in values] for name, values in self.values.items()},
            "num_samples": self.num_samples,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore the state of a checkpoint on `device`."""
        self.reset(state["first_step"])
        self.values = {name: [value.to(device) for value in values] for name, values in state["values"].items()}
        self.num_samples, self.seconds = state["num_samples"], state["seconds"]
        self._num_reduced_steps, self._num_reduced_samples = self.num_steps, self.num_samples


TrainRecords = Sequence[Mapping[str, Any]]


def last_epoch_averages(records: TrainRecords, steps_per_epoch: int, names: Sequence[str]) -> dict[str, float]:
    """Return `train_NAME_running` of the loss and the named metrics, averages over the steps of the last epoch.

    Each step counts with the weights it had and in training mode; empty if no step was taken. This is what tutorials
    print as training loss and accuracy (Zhang et al., Dive into Deep Learning, train_ch6); the final weights do better
    and are evaluated in eval mode.
    """
    windows = list(_train_windows(records))
    if not windows:
        return {}
    epoch_start = (int(windows[-1][0]["step"]) - 1) // steps_per_epoch * steps_per_epoch
    epoch_windows = [(record, num_steps) for record, num_steps in windows if record["step"] > epoch_start]
    total_steps = sum(num_steps for _, num_steps in epoch_windows)
    return {
        f"train_{name}_running": sum(record[name] * num_steps for record, num_steps in epoch_windows) / total_steps
        for name in ("loss", *names)
    }


def throughput_without_loading(records: TrainRecords) -> float | None:
    """Return training images a second, without the time spent waiting for data; None if no step was taken."""
    key = "compute_images_per_second"
    windows = [(record[key], num_steps) for record, num_steps in _train_windows(records) if record.get(key)]
    seconds = sum(num_steps / speed for speed, num_steps in windows)
    return sum(num_steps for _, num_steps in windows) / seconds if seconds else None


def waiting_fraction(records: TrainRecords) -> float | None:
    """Return the fraction of the training time that was spent waiting for data; None if no step was taken."""
    speeds = [
        (record["images_per_second"], record["compute_images_per_second"], num_steps)
        for record, num_steps in _train_windows(records)
        if record.get("images_per_second") and record.get("compute_images_per_second")
    ]
    seconds = sum(num_steps / speed for speed, _, num_steps in speeds)
    compute_seconds = sum(num_steps / speed for _, speed, num_steps in speeds)
    return 1 - compute_seconds / seconds if seconds else None


def _train_windows(records: TrainRecords) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield the training records of a log, each with the number of steps it covers."""
    previous_step = 0
    for record in records:
        if record.get("kind") == "train":
            yield record, int(record["step"]) - previous_step
            previous_step = int(record["step"])
