"""`reslab bench`: the JSON keys, several precisions, and errors for what it cannot measure."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command

PROMISED = {
    "backend",
    "precision",
    "batch_size",
    "images_per_second",
    "latency_ms_p50",
    "memory_bytes",
    "matmul_utilization",
}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of one step, and a matrix product that takes no time: the numbers are not what is tested."""
    monkeypatch.setattr("reslab.training.benchmark.MIN_TIMING_SECONDS", 1e-6)
    monkeypatch.setattr("reslab.training.benchmark._MATMUL_SIZE", {"cpu": 64})


def test_the_keys_of_each_result(command: Command) -> None:
    arguments = (
        "bench",
        "resnet8_fast",
        "--task",
        "train",
        "--input",
        "1x28x28",
        "--batch-size",
        "4",
        "--repeats",
        "1",
    )
    value = command(*arguments, "--precision", "float32,bf16", "--device", "cpu", "--json").value
    assert [each["precision"] for each in value["results"]] == ["float32", "bf16"]
    assert all(set(each) >= PROMISED and each["batch_size"] == 4 for each in value["results"])
    assert all(each["images_per_second"] > 0 for each in value["results"])
    assert (value["model"], value["task"], value["input_size"]) == ("resnet8_fast", "train", [1, 28, 28])


def test_a_table_for_people(command: Command) -> None:
    shown = command("bench", "resnet8_fast", "-b", "4", "--repeats", "1", "--precision", "float32", "--device", "cpu")
    assert shown.code == 0
    assert "images/s" in shown.out
    assert "GFLOP/s in float32" in shown.out
    assert "1×28×28" in shown.out


def test_what_cannot_be_measured_is_an_error(command: Command) -> None:
    assert "train" in command("bench", "resnet8_fast", "--task", "tran").err
    refused = command("bench", "resnet8_fast", "--precision", "bf61", "--json")
    assert refused.code == 1
    assert "bf16" in refused.value["error"]


def test_predictions_by_backend(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reslab.deploy.benchmark.SECONDS_PER_ROUND", 1e-3)
    arguments = ("bench", trained, "--task", "predict", "--batch-size", "1,3", "--backend", "torch", "--repeats", "2")
    page = tmp_path / "speed.html"
    value = command(*arguments, "--precision", "float32,bf16", "--device", "cpu", "--html", page, "--json").value
    assert [(each["precision"], each["batch_size"]) for each in value["results"]] == [
        ("float32", 1), ("float32", 3), ("bf16", 1), ("bf16", 3),
    ]  # fmt: skip
    expected = {
        "backend",
        "precision",
        "batch_size",
        "images_per_second",
        "latency_ms_p50",
        "latency_ms_p95",
        "memory_bytes",
    }
    assert all(set(each) >= expected for each in value["results"])
    assert (value["task"], value["input_size"], value["html"]) == ("predict", [1, 8, 8], str(page))
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "times torch in float32" in text or "torch in float32 is fastest" in text
    shown = command(*arguments, "--precision", "float32", "--device", "cpu")
    assert shown.code == 0
    assert "p99 ms" in shown.out
    assert "alternating rounds" in shown.out


def test_options_of_one_task(command: Command) -> None:
    assert "--task predict" in command("bench", "resnet8_fast", "--backend", "torch").err
    assert "nearest: 'openvino'" in command("bench", "resnet8_fast", "--task", "predict", "--backend", "openvin").err
    assert "--batch-size 1,16" in command("bench", "resnet8_fast", "--batch-size", "one").err
