"""Checks of the inputs of metrics: shapes, finite numbers and labels in range."""

from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from reslab.spec.errors import invalid


def check_table(name: str, values: Tensor) -> Tensor:
    """Return `values` (N, K) as float64 on the CPU. Raises ValueError unless N, K >= 1 and all numbers are finite."""
    if values.ndim != 2 or 0 in values.shape:
        nearest = "values.unsqueeze(1)" if values.ndim == 1 and len(values) else ""
        raise invalid(f"{name} of shape (N, K) with N, K >= 1", f"shape {tuple(values.shape)}", nearest)
    table = values.detach().cpu().double()
    check_finite(name, table)
    return table


def check_finite(name: str, values: Tensor) -> None:
    """Raise ValueError, with the number of others and the place of the first, unless all values are finite."""
    others = ~values.isfinite()
    if others.any():
        first = others.nonzero()[0].tolist()
        got = f"{int(others.sum())} NaN or infinite of {values.numel()}, the first at {first}"
        raise invalid(f"finite {name}", got, next_step="check the outputs of the network for overflow")


def check_same_shape(name: str, values: Tensor, other_name: str, others: Tensor) -> None:
    """Raise ValueError unless both have the same shape."""
    if values.shape != others.shape:
        raise invalid(f"{name} and {other_name} of one shape", f"{tuple(values.shape)} and {tuple(others.shape)}")


def check_integers(name: str, values: Tensor) -> None:
    """Raise ValueError unless the type of the values is one of integers or boolean."""
    if values.is_floating_point() or values.is_complex():
        raise invalid(f"{name} of an integer type", f"{values.dtype}", "values.long()")


def check_label_range(name: str, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError, with the first labels out of range, unless all are from 0 to num_classes - 1."""
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        outside = sorted(set(labels[(labels < 0) | (labels >= num_classes)].tolist()))
        raise invalid(f"{name} from 0 to {num_classes - 1}", first_few(outside))


def check_unique(name: str, ids: Sequence[Hashable]) -> None:
    """Raise ValueError, with the first repeated ones, unless the ids are unique."""
    repeated = [one for one, count in Counter(ids).items() if count > 1]
    if repeated:
        raise invalid(f"{name} with unique ids", f"{len(repeated)} repeated: {first_few(repeated)}")


def first_few(values: Sequence[object], max_shown: int = 5) -> str:
    """Return the first values as text, with the number of the others."""
    shown = ", ".join(map(repr, values[:max_shown]))
    return shown if len(values) <= max_shown else f"{shown} and {len(values) - max_shown} more"


def as_counts(name: str, counts: Tensor, num_columns: int | None = None) -> list[list[int]]:
    """Return counts as rows of Python integers. Raises ValueError unless they are (C, num_columns), (C, C) by default.

    Integers of Python keep the sums and ratios of any number of pixels exact.
    """
    columns = (counts.shape[0] if num_columns is None else num_columns) if counts.ndim else -1
    if counts.ndim != 2 or counts.shape[1] != columns or counts.is_floating_point() or bool((counts < 0).any()):
        shape = "(C, C)" if num_columns is None else f"(C, {num_columns})"
        raise invalid(f"{name} of shape {shape}, integers >= 0", f"shape {tuple(counts.shape)} of {counts.dtype}")
    rows: list[list[int]] = counts.to(torch.int64).tolist()
    return rows
