"""What the log of a run tells at its end: averages along the last epoch, and the speed without waiting for data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
