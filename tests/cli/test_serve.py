"""`reslab serve` as a process: it prints its address, answers, and completes accepted requests before it stops."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from reslab.cli.app import main
from reslab.training.run import Run
from reslab.training.train import train

SMALL = {"model.depths": "1,1,1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("served") / "net"
    return train("resnet20_cifar", epochs=1, overrides=SMALL, output=folder, device="cpu")


@pytest.fixture
def service(run: Run) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    arguments = [sys.executable, "-m", "reslab", "serve", str(run.path), "--port", "0", "--backend", "torch"]
    process = subprocess.Popen([*arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stdout is not None
    line = process.stderr.readline()
    match = re.search(r"http://127\.0\.0\.1:\d+", line)
    try:
        assert match, line + process.stderr.read()
        yield process, match.group()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        process.stdout.close()


def ask(address: str, content: bytes | None = None) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(address, content, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=60) as result:
        return result.status, json.loads(result.read())


@pytest.fixture
def png(tmp_path: Path) -> bytes:
    file = tmp_path / "grey.png"
    Image.new("L", (8, 8), 90).save(file)
    return file.read_bytes()


def test_sigterm_ends_it_after_the_accepted_requests(service: tuple["subprocess.Popen[str]", str], png: bytes) -> None:
    process, address = service
    status, result = ask(f"{address}/v1/predict?top_k=2", png)
    assert status == 200
    assert len(result["predictions"][0]["classes"]) == 2  # type: ignore[index]
    slow = f"{address}/v1/explain?method=integrated-gradients"
    with ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(ask, slow, png) for _ in range(8)]
        while b"reslab_queue_depth 8.0" not in urllib.request.urlopen(f"{address}/metrics").read():
            assert not all(each.done() for each in taken), "they were done before all had come"
        process.send_signal(signal.SIGTERM)
        assert [each.result()[0] for each in taken] == [200] * 8
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert "stopped; all accepted requests were answered" in process.stderr.read()
    assert process.stdout is not None
    assert json.loads(process.stdout.read()) == {"address": address, "models": ["net"]}


def test_wrong_options_are_errors(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        ([str(tmp_path)], "run.json"),
        ([str(run.path), "--backend", "tourch"], "nearest: 'torch'"),
        ([str(run.path), "--max-in-flight", "3"], "max_in_flight 32"),
        ([str(run.path), "--token", " "], "at least one character"),
        ([str(run.path), "--precision", "fp8"], "unknown precision"),
        ([str(run.path), "--host", "0.0.0.0"], "--insecure"),
        ([str(run.path), "--host", "::", "--token", ""], "at least one character"),
        ([str(run.path), "--allow-origin", "friend.example"], "nearest valid: https://example.org"),
    ):
        assert main(["serve", *arguments, "--port", "0"]) == 1
        assert expected in capsys.readouterr().err


def test_a_port_in_use_is_an_error_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(tmp_path), "--port", port]) == 1
    assert "a free address and port" in capsys.readouterr().err
