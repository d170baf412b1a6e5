"""The benchmark of backends: what is measured, in which order, and which options are rejected."""

from typing import Any

import pytest
import torch

from reslab.deploy import benchmark as bench
from reslab.deploy.backends.backend import Backend
from reslab.deploy.benchmark import (
    InferenceSpeed,
    backend_precision_pairs,
    benchmark_backends,
    default_backends,
    default_precisions,
    quantile,
)
from reslab.nn.network import ResidualNetwork

CPU = torch.device("cpu")
BOTH: dict[str, Any] = {"backends": ["torch", "openvino"], "precisions": ["float32"], "device": CPU}


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [quantile(hundred, part) for part in (0.5, 0.95, 0.99)] == [50.0, 95.0, 99.0]
    assert [quantile([1.0, 2.0, 3.0], part) for part in (0.5, 0.95)] == [2.0, 3.0]
    assert quantile([7.0], 0.5) == 7.0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Backends that only record their calls and batch sizes, on a clock that advances per call."""
    calls: list[tuple[str, int]] = []
    clock = iter(range(1_000_000))

    def opened(network: Any, name: str, precision: str, device: Any, **rest: Any) -> Backend:
        def result(x: torch.Tensor) -> torch.Tensor:
            calls.append((f"{name} {precision}", len(x)))
            return x

        return Backend(name, precision, CPU, result, compiled=rest["compiled"])

    monkeypatch.setattr(bench, "open_backend", opened)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: 0.1 * next(clock))
    return calls


def test_rounds_alternate(network: ResidualNetwork, counted: list[tuple[str, int]]) -> None:
    result = benchmark_backends(network, (1, 8, 8), [2, 3], rounds=2, **BOTH)
    assert [(each.backend, each.batch_size) for each in result] == [
        ("torch", 2), ("torch", 3), ("openvino", 2), ("openvino", 3),
    ]  # fmt: skip
    measured = counted[-sum(each.num_calls for each in result) :]
    turns = [call for index, call in enumerate(measured) if index == 0 or measured[index - 1] != call]
    assert turns == 2 * [("torch float32", 2), ("torch float32", 3), ("openvino float32", 2), ("openvino float32", 3)]
    for each in result:
        assert each.latency_ms_p50 == pytest.approx(100)
        assert each.images_per_second == pytest.approx(10 * each.batch_size)
        assert each.prepare_seconds == pytest.approx(0.1)


@pytest.mark.soak
def test_compiled_torch_is_compared_with_torch(network: ResidualNetwork, counted: list[tuple[str, int]]) -> None:
    result = benchmark_backends(network, (1, 8, 8), [2], rounds=1, compiled=True, **BOTH)
    assert [each.backend for each in result] == ["torch", "torch, compiled", "openvino"]


def test_a_real_measurement(network: ResidualNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS_PER_ROUND", 0.01)
    options: dict[str, Any] = BOTH | {"backends": ["torch"], "rounds": 2}
    (result,) = benchmark_backends(network, (1, 8, 8), [4], **options)
    assert isinstance(result, InferenceSpeed)
    assert 0 < result.latency_ms_p50 <= result.latency_ms_p95 <= result.latency_ms_p99
    slow, quick = result.images_per_second_range
    assert slow <= quick
    assert result.memory_bytes is None or result.memory_bytes >= 0


def test_what_is_measured_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_backends(CPU) == ["torch", "onnxruntime", "openvino"]
    assert default_backends(torch.device("cuda")) == ["torch"]
    for quick in (True, False):
        monkeypatch.setattr(bench, "has_fast_bf16", lambda _, quick=quick: quick)
        assert ("bf16" in default_precisions(CPU)) is quick
    assert backend_precision_pairs(["torch", "onnxruntime"], ["bf16", "int8"], CPU) == [
        ("torch", "bf16"),
        ("onnxruntime", "int8"),
    ]


@pytest.mark.parametrize(
    ("engines", "precisions", "batches", "message"),
    [
        (["trch"], ["float32"], [1], "nearest: 'torch'"),
        (["torch"], ["int9"], [1], "unknown precision 'int9'"),
        (["torch"], ["int8"], [1], "torch: float32, bf16, fp16"),
        (["torch"], ["float32"], [0], "batch_size of at least 1"),
    ],
)
def test_mistakes_are_reported(
    network: ResidualNetwork, engines: Any, precisions: Any, batches: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark_backends(network, (1, 8, 8), batches, backends=engines, precisions=precisions, device=CPU)
