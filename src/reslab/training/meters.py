"""What the training steps since the last report amounted to.

What the log of a run tells at its end: averages along the last epoch, and the speed without waiting for data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reslab.runtime.distributed import ProcessGroup
from reslab.spec.errors import invalid


class NonFiniteError(ValueError):
    """The loss, or a weight, is no longer a finite number."""

    on_every_rank = True


@dataclass
class TrainMeter:
    """Losses and hits of the steps from `first` on, left on the device until they are asked for.

    Those of the first `num_pooled` steps (`num_pooled_samples`) are of the whole batch, later ones of this rank's part.
    """

    first_step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    num_correct: list[Tensor] = field(default_factory=list)
    num_samples: int = 0
    seconds: float = 0.0
    num_reduced: int = 0
    num_reduced_samples: int = 0

    def update(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count one step: a scalar loss, outputs (N, classes), targets (N,) or shares of classes (N, classes).

        Of shares the largest is what is right.
        """
        if outputs.ndim != 2 or targets.shape not in (outputs.shape[:1], outputs.shape):
            raise invalid(
                "outputs of shape (N, classes) and targets of shape (N,) or (N, classes)",
                f"{tuple(outputs.shape)} and {tuple(targets.shape)}",
            )
        if targets.ndim == 2:
            targets = targets.argmax(1)
        loss = loss.detach()
        self.losses.append(loss if loss.dtype == torch.float64 else loss.float())
        self.num_correct.append((outputs.detach().argmax(1) == targets).sum())
        self.num_samples += len(targets)

    def all_reduce(self, process_group: ProcessGroup) -> None:
        """Make every step that of the whole batch: the mean of the ranks' losses, the sum of their hits."""
        new_steps, num_new_samples = slice(self.num_reduced, None), self.num_samples - self.num_reduced_samples
        if process_group.world_size > 1 and self.losses[new_steps]:
            local = torch.stack(
                [torch.stack(values[new_steps]).cpu().double() for values in (self.losses, self.num_correct)]
            )
            gathered = process_group.all_gather((local, num_new_samples))
            # Summed in the order of ranks: the same on all, and in every run.
            losses, num_correct = torch.stack([values for values, _ in gathered]).sum(0)
            dtype, device = self.losses[-1].dtype, self.losses[-1].device
            self.losses[new_steps] = list((losses / process_group.world_size).to(device=device, dtype=dtype))
            self.num_correct[new_steps] = list(num_correct.to(device=device, dtype=torch.int64))
            self.num_samples += sum(count for _, count in gathered) - num_new_samples
        self.num_reduced, self.num_reduced_samples = len(self.losses), self.num_samples

    def means(self) -> tuple[float, float]:
        """Mean loss over the steps and the share of samples that were right. Raises Diverged like `check`."""
        self.check_finite()
        losses = torch.stack(self.losses).cpu().double()
        return losses.mean().item(), int(torch.stack(self.num_correct).sum()) / self.num_samples

    def check_finite(self) -> None:
        """Raise Diverged where a loss is not finite, with the first such step."""
        if not self.losses:
            return
        losses = torch.stack(self.losses)
        bad_indices = (~losses.isfinite()).nonzero()
        if len(bad_indices):
            index = int(bad_indices[0])
            raise NonFiniteError(f"the loss is {losses[index].item()} at step {self.first_step + index}")

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, for the state."""
        return {
            "first_step": self.first_step,
            "losses": [loss.cpu() for loss in self.losses],
            "num_correct": [count.cpu() for count in self.num_correct],
            "num_samples": self.num_samples,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], device: torch.device) -> "TrainMeter":
        """The tally that `to_dict` described, on `device`."""
        losses, num_correct = ([value.to(device) for value in data[name]] for name in ("losses", "num_correct"))
        num_samples = data["num_samples"]
        return cls(data["first_step"], losses, num_correct, num_samples, data["seconds"], len(losses), num_samples)


TrainRecords = Sequence[Mapping[str, Any]]


def last_epoch_averages(records: TrainRecords, steps_per_epoch: int) -> dict[str, float]:
    """Mean loss and accuracy of the training steps of the last epoch, each with the weights of its step, in training
    mode: `train_average_loss`, `train_average_top1`; empty where no step was taken.

    This is what tutorials print as training loss and accuracy (Zhang et al., Dive into Deep Learning, train_ch6); the
    finished weights do better, and are judged in another mode.
    """
    reports = list(_train_records(records))
    if not reports:
        return {}
    epoch_start = (int(reports[-1][0]["step"]) - 1) // steps_per_epoch * steps_per_epoch
    epoch_reports = [(record, num_steps) for record, num_steps in reports if record["step"] > epoch_start]
    total_steps = sum(num_steps for _, num_steps in epoch_reports)
    return {
        f"train_{name}_running": sum(record[name] * num_steps for record, num_steps in epoch_reports) / total_steps
        for name in ("loss", "top1")
    }


def throughput_without_loading(records: TrainRecords) -> float | None:
    """Training images a second, the time spent waiting for data left out; None where no step was taken."""
    key = "compute_images_per_second"
    reports = [(record[key], num_steps) for record, num_steps in _train_records(records) if record.get(key)]
    seconds = sum(num_steps / speed for speed, num_steps in reports)
    return sum(num_steps for _, num_steps in reports) / seconds if seconds else None


def _train_records(records: TrainRecords) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The reports on training, each with the number of steps it is about."""
    previous_step = 0
    for record in records:
        if record.get("kind") == "train":
            yield record, int(record["step"]) - previous_step
            previous_step = int(record["step"])
