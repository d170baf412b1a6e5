"""What the training steps since the last report amounted to.

What the log of a run tells at its end: averages along the last epoch, and the speed without waiting for data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reslab.runtime.distributed import Ranks
from reslab.spec.errors import invalid


class Diverged(ValueError):
    """The loss, or a weight, is no longer a finite number."""

    on_every_rank = True


@dataclass
class Tally:
    """Losses and hits of the steps from `first` on, left on the device until they are asked for.

    Those of the first `num_pooled` steps (`num_pooled_samples`) are of the whole batch, later ones of this rank's part.
    """

    first: int = 0
    losses: list[Tensor] = field(default_factory=list)
    hits: list[Tensor] = field(default_factory=list)
    num_samples: int = 0
    seconds: float = 0.0
    num_pooled: int = 0
    num_pooled_samples: int = 0

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
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
        self.hits.append((outputs.detach().argmax(1) == targets).sum())
        self.num_samples += len(targets)

    def pool(self, ranks: Ranks) -> None:
        """Make every step that of the whole batch: the mean of the ranks' losses, the sum of their hits."""
        new, num_new = slice(self.num_pooled, None), self.num_samples - self.num_pooled_samples
        if ranks.num > 1 and self.losses[new]:
            own = torch.stack([torch.stack(values[new]).cpu().double() for values in (self.losses, self.hits)])
            told = ranks.gather((own, num_new))
            # Summed in the order of ranks: the same on all, and in every run.
            losses, hits = torch.stack([values for values, _ in told]).sum(0)
            dtype, device = self.losses[-1].dtype, self.losses[-1].device
            self.losses[new] = list((losses / ranks.num).to(device=device, dtype=dtype))
            self.hits[new] = list(hits.to(device=device, dtype=torch.int64))
            self.num_samples += sum(count for _, count in told) - num_new
        self.num_pooled, self.num_pooled_samples = len(self.losses), self.num_samples

    def means(self) -> tuple[float, float]:
        """Mean loss over the steps and the share of samples that were right. Raises Diverged like `check`."""
        self.check()
        losses = torch.stack(self.losses).cpu().double()
        return losses.mean().item(), int(torch.stack(self.hits).sum()) / self.num_samples

    def check(self) -> None:
        """Raise Diverged where a loss is not finite, with the first such step."""
        if not self.losses:
            return
        losses = torch.stack(self.losses)
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            at = int(bad[0])
            raise Diverged(f"the loss is {losses[at].item()} at step {self.first + at}")

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, for the state."""
        return {
            "first": self.first,
            "losses": [loss.cpu() for loss in self.losses],
            "hits": [hit.cpu() for hit in self.hits],
            "num_samples": self.num_samples,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], device: torch.device) -> "Tally":
        """The tally that `to_dict` described, on `device`."""
        losses, hits = ([value.to(device) for value in data[name]] for name in ("losses", "hits"))
        num_samples = data["num_samples"]
        return cls(data["first"], losses, hits, num_samples, data["seconds"], len(losses), num_samples)


Lines = Sequence[Mapping[str, Any]]


def last_epoch(lines: Lines, steps_per_epoch: int) -> dict[str, float]:
    """Mean loss and accuracy of the training steps of the last epoch, each with the weights of its step, in training
    mode: `train_average_loss`, `train_average_top1`; empty where no step was taken.

    This is what tutorials print as training loss and accuracy (Zhang et al., Dive into Deep Learning, train_ch6); the
    finished weights do better, and are judged in another mode.
    """
    parts = list(_parts(lines))
    if not parts:
        return {}
    begun = (int(parts[-1][0]["step"]) - 1) // steps_per_epoch * steps_per_epoch
    last = [(line, num_steps) for line, num_steps in parts if line["step"] > begun]
    total = sum(num_steps for _, num_steps in last)
    return {
        f"train_average_{name}": sum(line[name] * num_steps for line, num_steps in last) / total
        for name in ("loss", "top1")
    }


def speed_without_loading(lines: Lines) -> float | None:
    """Training images a second, the time spent waiting for data left out; None where no step was taken."""
    key = "images_per_second_without_loading"
    parts = [(line[key], num_steps) for line, num_steps in _parts(lines) if line.get(key)]
    seconds = sum(num_steps / speed for speed, num_steps in parts)
    return sum(num_steps for _, num_steps in parts) / seconds if seconds else None


def _parts(lines: Lines) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The reports on training, each with the number of steps it is about."""
    before = 0
    for line in lines:
        if line.get("kind") == "train":
            yield line, int(line["step"]) - before
            before = int(line["step"])
