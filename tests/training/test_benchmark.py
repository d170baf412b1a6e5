"""Measured steps: the counts are exact, the settings the recipe's, and what means nothing is refused."""

import pytest
import torch

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.runtime.device import quick_bf16
from reslab.spec.zoo import ARCHS
from reslab.training.benchmark import (
    LEAST_SECONDS,
    WARM_UP_STEPS,
    fast_recipe,
    matrix_rate,
    measure_step,
    quick_settings,
    time_steps,
)

CPU = torch.device("cpu")


def test_a_measured_step_counts_what_it_computes() -> None:
    arch, size = ARCHS["resnet8_fast"], (1, 28, 28)
    macs = sum(layer.macs for layer in layer_table(create_model(arch), size))
    before = torch.get_rng_state()
    found = measure_step(arch, size, 8, quick_settings(CPU, "float32"), CPU, repeats=2)
    assert found.step_flops == 6 * 8 * macs
    assert found.share == pytest.approx(found.step_flops * found.images_per_second / 8 / found.matrix_flops_per_second)
    assert found.latency_ms_p50 == pytest.approx(1e3 * 8 / found.images_per_second)
    slow, quick = found.images_per_second_range
    assert 0 < slow <= found.images_per_second <= quick
    assert (found.precision, found.batch, found.repeats, found.engine) == ("float32", 8, 2, "torch")
    assert torch.equal(before, torch.get_rng_state())


def test_the_settings_are_the_fast_recipes() -> None:
    assert fast_recipe(CPU).name == "fast-cpu"
    assert fast_recipe(torch.device("cuda")).name == "fast-gpu"
    assert quick_settings(CPU).precision == ("bf16" if quick_bf16(CPU) else "float32")
    assert quick_settings(CPU).channels_last
    assert quick_settings(CPU, "fp16", compiled=True).precision == "fp16"
    assert quick_settings(CPU, compiled=True).compile
    with pytest.raises(ValueError, match="bf16"):
        quick_settings(CPU, "bf61")


def test_timings_leave_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    clock = iter(range(1000))  # every timing lasts one second of this clock
    monkeypatch.setattr("reslab.training.benchmark.time.perf_counter", lambda: float(next(clock)))
    seconds, num_steps = time_steps(lambda: taken.append(1), CPU, 4)
    assert (seconds, num_steps) == ([1.0] * 4, 1)
    assert len(taken) == WARM_UP_STEPS + 1 + 4
    assert LEAST_SECONDS < 1


def test_a_quick_step_is_taken_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def take() -> None:
        now[0] += LEAST_SECONDS / 10

    monkeypatch.setattr("reslab.training.benchmark.time.perf_counter", lambda: now[0])
    seconds, num_steps = time_steps(take, CPU, 3)
    assert num_steps == 10
    assert seconds == pytest.approx([LEAST_SECONDS / 10] * 3)


def test_a_matrix_product_has_a_rate() -> None:
    assert matrix_rate("float32", CPU, side=64) > 0


@pytest.mark.parametrize(("batch", "repeats", "word"), [(0, 5, "batch"), (8, 0, "repeats")])
def test_nothing_is_measured_of_nothing(batch: int, repeats: int, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} of at least 1"):
        measure_step(ARCHS["resnet8_fast"], (1, 28, 28), batch, quick_settings(CPU), CPU, repeats)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="images N 1 H W"):
        measure_step(ARCHS["resnet8_fast"], (3, 28, 28), 4, quick_settings(CPU), CPU, 1)
