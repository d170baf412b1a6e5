"""What the steps wait for their data: counted while it is fetched, not while a step is taken."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reslab.training.train import train
from reslab.training.waiting import Awaited


class _Slow:
    """Batches that take two seconds each, of a clock of their own."""

    num_steps_per_epoch = 3

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def iterate(self, start_step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for step in range(start_step, 100):
            self.now[0] += 2.0
            batch = torch.full((1,), step)
            yield batch, batch, batch


def test_fetching_counts_and_stepping_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("reslab.training.waiting.time.perf_counter", lambda: now[0])
    awaited = Awaited(_Slow(now))
    stream = awaited.iterate(5)
    for step in (5, 6, 7):
        assert int(next(stream)[0]) == step
        now[0] += 10.0  # the step
    assert awaited.seconds == 6.0
    assert awaited.num_steps_per_epoch == 3


def test_a_run_tells_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslab.training.telling._PROGRESS_EVERY_SECONDS", 0.0)
    lines: list[dict[str, Any]] = []
    train("resnet8_fast", "digits", epochs=0.5, output=tmp_path / "run", show=lines.append, settings={"batch": 128})
    shares = [line["waiting"] for line in lines if line["kind"] == "progress"]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    assert any(share > 0 for share in shares)
