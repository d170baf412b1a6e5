"""The page of `reslab runs --page`: several runs, their curves laid over each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ComparedRun:
    """One run: its log, and how it ended; None (top1, train_seconds) where it has not."""

    name: str
    model: str
    data: str
    recipe: str
    log: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    top1: float | None = None
    loss: float | None = None
    train_seconds: float | None = None


@dataclass(frozen=True)
class ComparePage:
    """What the page shows: at least one run."""

    title: str
    runs: Sequence[ComparedRun]
    facts: Mapping[str, str] = field(default_factory=dict)
