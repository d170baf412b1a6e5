"""An exported network held against the one it was made from, on real pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.deploy.backends.backend import Answer
from reslab.runtime.device import exact_arithmetic
from reslab.spec.errors import refuse

LARGEST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """What `num_images` pictures showed.

    `largest_difference` is the largest over the pictures of max |exported - original| / max |original|, the maxima over
    the classes. `agreement` is the fraction of pictures with the same largest output; `top1` and `exported_top1` are
    the accuracies, fractions.
    """

    num_images: int
    largest_difference: float
    num_agreeing: int
    num_correct: int
    exported_num_correct: int

    @property
    def agreement(self) -> float:
        """The fraction of pictures on which both name the same class."""
        return self.num_agreeing / self.num_images

    @property
    def top1(self) -> float:
        """The accuracy of the network itself."""
        return self.num_correct / self.num_images

    @property
    def exported_top1(self) -> float:
        """The accuracy of what was exported."""
        return self.exported_num_correct / self.num_images

    @property
    def drop_points(self) -> float:
        """Accuracy lost, in points (hundredths); negative where it was gained."""
        return 100 * (self.num_correct - self.exported_num_correct) / self.num_images


def compare(original: Answer, exported: Answer, batches: Iterable[tuple[Tensor, Tensor]]) -> Comparison:
    """Both asked for every batch (x, y). Raises ValueError where there is none, and where the shapes differ."""
    counts = torch.zeros(4, dtype=torch.int64)
    largest = 0.0
    for x, y in batches:
        with torch.no_grad(), exact_arithmetic():
            expected = original(x).double().cpu()
        found = exported(x).double().cpu()
        if found.shape != expected.shape:
            raise refuse(f"outputs of shape {tuple(expected.shape)}", tuple(found.shape))
        scale = expected.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        apart = (found - expected).abs().amax(1) / scale
        # Not a number is as far away as can be, and would be lost in a maximum.
        largest = max(largest, float(apart.nan_to_num(float("inf")).max()))
        ours, theirs = expected.argmax(1), found.argmax(1)
        hits = [ours == theirs, ours == y, theirs == y, torch.ones_like(y, dtype=torch.bool)]
        counts += torch.tensor([int(hit.sum()) for hit in hits])
    if not counts[3]:
        raise refuse("at least one picture to compare on", "none")
    agreeing, correct, exported_correct, total = counts.tolist()
    return Comparison(total, largest, agreeing, correct, exported_correct)


def faults(found: Comparison, precision: str, max_drop: float) -> list[str]:
    """Why the export does not count, in words; empty where it does.

    float32: a difference of at most LARGEST_DIFFERENCE, and the same class on every picture. Less precise ones: at most
    `max_drop` points of accuracy lost.
    """
    if precision != "float32":
        lost = f"{found.drop_points:.2f} points of accuracy lost, where {max_drop:g} are allowed"
        return [lost] if found.drop_points > max_drop else []
    told = []
    if not found.largest_difference <= LARGEST_DIFFERENCE:
        told.append(f"outputs {found.largest_difference:.2g} apart, where {LARGEST_DIFFERENCE:g} is allowed")
    if found.num_agreeing < found.num_images:
        told.append(f"another class on {found.num_images - found.num_agreeing} of {found.num_images} pictures")
    return told
