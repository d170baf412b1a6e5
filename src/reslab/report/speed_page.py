"""The page of `reslab bench --task predict`: how fast each engine answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SpeedPage:
    """What the page shows: `results` with engine, precision, batch, images_per_second and its range, latency_ms_p50,
    p95 and p99, memory_bytes (or None), prepare_seconds."""

    title: str
    results: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str] = field(default_factory=dict)
