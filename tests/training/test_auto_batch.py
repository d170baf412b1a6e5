"""The parts of a batch that fit a memory, by a meter that is made up, and on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reslab.runtime.distributed import ProcessGroup
from reslab.runtime.torchrun import DistributedEnv
from reslab.training import auto_batch as trials
from reslab.training.auto_batch import MemoryProbe, MicroBatchPlan, choose_micro_batch
from reslab.training.run import Run
from reslab.training.train import train

MIB = 2**20


class Meter:
    """A step of n images takes 100 + n (+ a surcharge from some size on) MiB; from `dead` on there is none."""

    def __init__(self, dead: int = 10**9, dearer_from: int = 10**9, surcharge: int = 0) -> None:
        self.dead, self.dearer_from, self.surcharge = dead, dearer_from, surcharge
        self.tried: list[int] = []

    def __call__(self, num_images: int) -> int | None:
        self.tried.append(num_images)
        if num_images >= self.dead:
            return None
        return MIB * (100 + num_images + (self.surcharge if num_images >= self.dearer_from else 0))


def test_a_batch_that_fits_is_left_whole() -> None:
    meter = Meter()
    result = choose_micro_batch(256, 1000 * MIB, meter)
    assert result == MicroBatchPlan(1, 256, 1000 * MIB, 356 * MIB, ((4, 104 * MIB), (16, 116 * MIB)))
    assert meter.tried == [4, 4, 16, 256]
    assert result.describe(256, 1, True) == "the batch of 256 fits as a whole (356 of 1,000 MiB free, measured)"


def test_a_larger_one_is_taken_in_the_fewest_equal_parts_that_fit_with_a_tenth_to_spare() -> None:
    # 200 MiB, 180 of them usable: 80 images. 256 are 4 parts of 64.
    result = choose_micro_batch(256, 200 * MIB, Meter())
    assert (result.grad_accum_steps, result.size, result.peak_bytes) == (4, 64, 164 * MIB)
    assert result.describe(256, 2, True) == (
        "the batch of 256 on each rank is split into 4 micro-batches of up to 64 (164 of 200 MiB free, measured); "
        "BatchNorm sees the micro-batches"
    )
    assert "BatchNorm" not in result.describe(256, 2, False)
    assert choose_micro_batch(254, 200 * MIB, Meter()).size == 64  # 254 = 2 x 127 has no equal parts near 4
    assert choose_micro_batch(256, 10**12, Meter(), min_accum_steps=2).grad_accum_steps == 2


def test_a_step_that_does_not_fit_after_all_is_made_smaller() -> None:
    for meter in (Meter(dead=60), Meter(dearer_from=60, surcharge=100)):
        result = choose_micro_batch(256, 200 * MIB, meter)
        assert meter.tried[3:] == [64, 32]
        assert (result.grad_accum_steps, result.size, result.peak_bytes) == (8, 32, 132 * MIB)


def test_a_small_step_that_may_not_fit_is_not_tried() -> None:
    meter = Meter()
    result = choose_micro_batch(64, 150 * MIB, meter)  # 135 usable: 5 images, if all of the 104 grew with their number
    assert meter.tried == [4, 4, 5, 32]
    assert result.peak_bytes == 132 * MIB


def test_it_is_reported_if_nothing_fits() -> None:
    for meter, free_bytes in ((Meter(dead=1), 10**12), (Meter(), 50 * MIB)):
        with pytest.raises(ValueError, match=r"memory for a step of 4 images.*activation_checkpointing"):
            choose_micro_batch(64, free_bytes, meter)


class Others(ProcessGroup):
    """A rank beside another that has less memory and needs twice the parts."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value, 2 * value if type(value) is int else value]


def test_every_rank_takes_the_smallest_of_all() -> None:
    assert (
        choose_micro_batch(256, 200 * MIB, Meter(), process_group=Others(DistributedEnv(0, 2, 0, 2))).grad_accum_steps
        == 8
    )


class Costly(MemoryProbe):
    """Steps that are really taken; 1 MiB an image is what they are said to take, of 40."""

    def __call__(self, num_images: int) -> int | None:
        assert super().__call__(num_images) is not None
        return num_images * MIB


def test_a_run_takes_the_parts_records_them_and_is_that_with_as_many_parts(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[dict[str, Any]],
    weights_hash: Callable[[Run], str],
) -> None:
    options = {**tiny, "epochs": 1, "overrides": {**tiny["overrides"], "model.order": "wide", "model.drop_rate": 0.2}}
    monkeypatch.setattr(trials, "MemoryProbe", Costly)
    monkeypatch.setattr(trials, "read_free_bytes", lambda device, num_processes: 40 * MIB)
    run = train(output=tmp_path / "auto", batch_size="auto", **{**options, "on_log": lines.append})
    message = "the batch of 64 is split into 2 micro-batches of up to 32 (32 of 40 MiB free, measured); BatchNorm sees"
    assert any(line.get("text", "").startswith(message) for line in lines)
    assert (run.recipe.batch_size, run.recipe.grad_accum_steps) == (64, 2)
    assert run.metadata["grad_accumulation"]["measurements"] == ((4, 4 * MIB), (16, 16 * MIB))
    parts = train(
        output=tmp_path / "parts", **{**options, "overrides": {**options["overrides"], "grad_accum_steps": 2}}
    )
    assert weights_hash(run) == weights_hash(parts)

    def never(*arguments: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(trials, "MemoryProbe", never)
    longer = train(output=run.path, batch_size="auto", resume=True, **{**options, "epochs": 2})
    assert longer.recipe.grad_accum_steps == 2
    with pytest.raises(ValueError, match="batch_size as in the run, 64"):
        train(output=parts.path, batch_size="auto", resume=True, **{**options, "overrides": None})


def test_on_this_machine_a_small_batch_fits(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = train(output=tmp_path / "run", batch_size="auto", **{**tiny, "epochs": 1})
    result = run.metadata["grad_accumulation"]
    assert (result["grad_accum_steps"], result["size"], result["world_size"]) == (1, 64, 1)
    assert 0 < result["peak_bytes"] < result["free_bytes"]
    assert [size for size, _ in result["measurements"]] == [4, 16]


def test_where_nothing_fits_no_run_is_left(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: MemoryProbe, num_images: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(MemoryProbe, "_run_step", crash)
    with pytest.raises(ValueError, match="memory for a step of 4 images"):
        train(output=tmp_path / "run", batch_size="auto", **tiny)
    assert not (tmp_path / "run").exists()


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a batch size of at least 1, or auto; got: 'many'"):
        train(batch_size="many")
