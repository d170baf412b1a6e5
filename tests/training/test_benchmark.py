"""Measured steps: the counts are exact, the settings the recipe's, and what means nothing is refused."""

import pytest
import torch

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.runtime.device import has_fast_bf16
from reslab.spec.zoo import ARCHS
from reslab.training.benchmark import (
    MIN_TIMING_SECONDS,
    WARMUP_STEPS,
    benchmark_train_step,
    fast_recipe,
    measure_matmul_flops,
    resolve_fast_recipe,
    time_steps,
)

CPU = torch.device("cpu")


def test_a_measured_step_counts_what_it_computes() -> None:
    arch, size = ARCHS["resnet8_fast"], (1, 28, 28)
    macs = sum(layer.macs for layer in layer_table(create_model(arch), size))
    before = torch.get_rng_state()
    result = benchmark_train_step(arch, size, 8, resolve_fast_recipe(CPU, "float32"), CPU, repeats=2)
    assert result.step_flops == 6 * 8 * macs
    assert result.matmul_utilization == pytest.approx(
        result.step_flops * result.images_per_second / 8 / result.matmul_flops_per_second
    )
    assert result.latency_ms_p50 == pytest.approx(1e3 * 8 / result.images_per_second)
    slow, quick = result.images_per_second_range
    assert 0 < slow <= result.images_per_second <= quick
    assert (result.precision, result.batch_size, result.repeats, result.backend) == ("float32", 8, 2, "torch")
    assert torch.equal(before, torch.get_rng_state())


def test_the_settings_are_the_fast_recipes() -> None:
    assert fast_recipe(CPU).name == "fast-cpu"
    assert fast_recipe(torch.device("cuda")).name == "fast-gpu"
    assert resolve_fast_recipe(CPU).precision == ("bf16" if has_fast_bf16(CPU) else "float32")
    assert resolve_fast_recipe(CPU).channels_last
    assert resolve_fast_recipe(torch.device("cuda"), "bf16").optimizer.name == "sgd"
    assert resolve_fast_recipe(CPU, "fp16", compiled=True).precision == "fp16"
    assert resolve_fast_recipe(CPU, compiled=True).compile
    with pytest.raises(ValueError, match="bf16"):
        resolve_fast_recipe(CPU, "bf61")


def test_timings_leave_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    clock = iter(range(1000))  # every timing lasts one second of this clock
    monkeypatch.setattr("reslab.training.benchmark.time.perf_counter", lambda: float(next(clock)))
    seconds, num_steps = time_steps(lambda: taken.append(1), CPU, 4)
    assert (seconds, num_steps) == ([1.0] * 4, 1)
    assert len(taken) == WARMUP_STEPS + 1 + 4
    assert MIN_TIMING_SECONDS < 1


def test_a_quick_step_is_taken_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def take() -> None:
        now[0] += MIN_TIMING_SECONDS / 10

    monkeypatch.setattr("reslab.training.benchmark.time.perf_counter", lambda: now[0])
    seconds, num_steps = time_steps(take, CPU, 3)
    assert num_steps == 10
    assert seconds == pytest.approx([MIN_TIMING_SECONDS / 10] * 3)


def test_a_matrix_product_has_a_rate() -> None:
    assert measure_matmul_flops("float32", CPU, size=64) > 0


@pytest.mark.parametrize(("batch", "repeats", "word"), [(0, 5, "batch size"), (8, 0, "repeats")])
def test_nothing_is_measured_of_nothing(batch: int, repeats: int, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} of at least 1"):
        benchmark_train_step(ARCHS["resnet8_fast"], (1, 28, 28), batch, resolve_fast_recipe(CPU), CPU, repeats)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="images N 1 H W"):
        benchmark_train_step(ARCHS["resnet8_fast"], (3, 28, 28), 4, resolve_fast_recipe(CPU), CPU, 1)
