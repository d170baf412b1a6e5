"""The page of `reslab lr-find`: the loss against rising learning rates, and which rate that suggests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RatePage:
    """What the page shows: `losses` and `smoothed` a value for each of `rates`; `suggestion` where the smoothed loss
    falls steepest and `lowest` where it is least, None where it never fell; `stopped_early` that it diverged."""

    title: str
    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggestion: float | None = None
    lowest: float | None = None
    stopped_early: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
