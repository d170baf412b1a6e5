"""Clients that are slow, idle or wasteful cost only themselves; what was received before the end is answered."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from starlette.datastructures import Headers

from reslab.deploy.server import requests
from reslab.deploy.server.app import create_app
from reslab.deploy.server.errors import HTTPError
from reslab.deploy.server.settings import ServerSettings
from reslab.training.run import Run
from tests.deploy.listening import listening, running_server
from tests.deploy.server.test_connections import CHUNKED, HEAD, answered, connected, read_all

JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data; boundary=b"
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def narrow(settings: ServerSettings) -> ServerSettings:
    """Settings with room for 4 images and 24 connections."""
    return replace(settings, max_in_flight=4, max_images=4, max_connections=24)


@pytest.fixture(scope="module")
def port(runs: list[Run], narrow: ServerSettings) -> Iterator[int]:
    with listening(create_app(runs[:1], narrow), narrow) as listening_port:
        yield listening_port


def predict_status(port: int, png: bytes) -> int:
    """Return the status of a prediction on a new connection."""
    with connected(port) as line:
        line.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(png) + png)
        return status_of(read_all(line))


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1]) if response else 0


def error_of(response: bytes) -> dict[str, str]:
    """Return the body of an error response."""
    result: dict[str, str] = json.loads(response.partition(b"\r\n\r\n")[2])
    assert set(result) == {"error", "kind"}
    return result


def test_slow_bodies_take_no_slot_in_the_queue(port: int, png: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            line = stack.enter_context(connected(port))
            line.sendall(POST + b"Content-Length: 1000\r\n\r\na")
        assert [predict_status(port, png) for _ in range(6)] == [200] * 6


def test_idle_connections_and_slow_bodies_are_evicted(port: int, png: bytes) -> None:
    with ExitStack() as stack:
        for number in range(60):
            line = stack.enter_context(connected(port))
            line.sendall((b"", HEAD, POST + b"Content-Length: 1000\r\n\r\na")[number % 3])
        assert [predict_status(port, png) for _ in range(6)] == [200] * 6


def test_body_below_the_minimum_rate_is_408(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "GRACE_SECONDS", 0.4)
    with connected(port) as line:
        line.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        for _ in range(3):
            line.sendall(b"a")
            time.sleep(0.1)
        response = read_all(line)
    assert status_of(response) == 408
    assert "1024 or more bytes a second; got: 3 bytes" in error_of(response)["error"]


def test_body_above_the_minimum_rate_is_read(port: int, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "GRACE_SECONDS", 0.3)
    padded = png + bytes(900)
    with connected(port) as line:
        line.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(padded))
        for start in range(0, len(padded), 200):
            line.sendall(padded[start : start + 200])
            time.sleep(0.1)
        assert status_of(read_all(line)) == 200


def test_chunks_of_a_byte_are_refused_and_large_ones_read(port: int, png: bytes) -> None:
    with connected(port) as line:
        line.sendall(CHUNKED + b"1\r\na\r\n" * 2000)
        response = read_all(line)
    assert status_of(response) == 400
    assert "chunks of at least 128 bytes" in error_of(response)["error"]
    with connected(port) as line:
        line.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        for start in range(0, len(png), 7):
            piece = png[start : start + 7]
            line.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        line.sendall(b"0\r\n\r\n")
        assert status_of(read_all(line)) == 200


def test_head_of_100_kb_in_one_burst_is_431(port: int) -> None:
    for header in (b"X: " + b"a" * 100_000 + b"\r\n", b"X: abcdef\r\n" * 9000):
        with connected(port) as line:
            line.sendall(HEAD + header + b"\r\n")
            response = read_all(line)
        assert status_of(response) == 431
        assert error_of(response)["kind"] == "too_large"


def test_invalid_request_is_reported_in_json(port: int) -> None:
    with connected(port) as line:
        line.sendall(b"NONSENSE\r\n\r\n")
        response = read_all(line)
    assert (status_of(response), error_of(response)["kind"]) == (400, "malformed")


def test_half_closed_client_gets_a_response(port: int, png: bytes) -> None:
    with connected(port) as line:
        line.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(png) + png)
        line.shutdown(socket.SHUT_WR)
        assert status_of(read_all(line)) == 200
    with connected(port) as line:
        line.sendall((HEAD + b"\r\n") * 3)
        line.shutdown(socket.SHUT_WR)
        assert read_all(line).count(b"HTTP/1.1 200 ") == 3
    with connected(port) as line:
        line.sendall(POST + b"Content-Length: 1000\r\n\r\nabc")
        line.shutdown(socket.SHUT_WR)
        response = read_all(line)
        assert (status_of(response), "a complete request" in error_of(response)["error"]) == (400, True)


def test_requests_before_shutdown_get_a_response(runs: list[Run], narrow: ServerSettings, png: bytes) -> None:
    with running_server(create_app(runs[:1], narrow), narrow) as (port, server), ExitStack() as stack:
        lines = [stack.enter_context(connected(port)) for _ in range(12)]
        for line in lines:
            line.sendall(HEAD + b"\r\n")
            answered(line)
        for line in lines[:8]:
            line.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(png) + png)
        server.should_exit = True
        time.sleep(0.15)
        for line in lines[8:]:  # while the server drains
            line.sendall(HEAD + b"\r\n")
        responses = [read_all(line) for line in lines]
    assert {status_of(response) for response in responses[:8]} <= {200, 429}
    assert [status_of(response) for response in responses[8:]] == [200] * 4
    assert all(b"connection: close" in response.lower() for response in responses[8:])


def form_of(head: bytes, content: bytes) -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


NUM_BYTES = 15 << 20
_IMAGE_HEAD = b'Content-Disposition: form-data; name="image"'
WASTEFUL_BODIES = {
    "a long name in JSON": (JSON_TYPE, lambda: b'{"%b": ""}' % (b"x" * NUM_BYTES), 422),
    "a million keys": (JSON_TYPE, lambda: b"{" + b'"k": 0, ' * 10**6, 413),
    "nested lists": (JSON_TYPE, lambda: b'{"image": ' + b"[" * NUM_BYTES, 413),
    "a long number": (JSON_TYPE, lambda: b'{"image": %b}' % (b"1" * NUM_BYTES), 400),
    "base64 of spaces": (JSON_TYPE, lambda: b'{"image": "%b"}' % (b"a " * (NUM_BYTES // 2)), None),
    "a long name in a form": (
        FORM_TYPE,
        lambda: form_of(b'Content-Disposition: form-data; name="%b"' % (b"x" * NUM_BYTES), b""),
        400,
    ),
    "a long header in a form": (FORM_TYPE, lambda: form_of(b"x" * NUM_BYTES + b": a", b""), 400),
    "empty lines in a form": (
        FORM_TYPE,
        lambda: form_of(_IMAGE_HEAD + b'; filename="x"', b"\r\n--" * (NUM_BYTES // 4)),
        None,
    ),
    "base64 of spaces in a form": (FORM_TYPE, lambda: form_of(_IMAGE_HEAD, b"a " * (NUM_BYTES // 2)), None),
    "a form of empty fields": (FORM_TYPE, lambda: (b"--b\r\n" + _IMAGE_HEAD + b"\r\n\r\n\r\n") * 150_000, 413),
}


@pytest.mark.parametrize("name", WASTEFUL_BODIES)
def test_wasteful_bodies_cost_no_more_than_their_bytes(name: str) -> None:
    """Each body takes some hundredths of a second, and no error repeats it."""
    content_type, make_body, status = WASTEFUL_BODIES[name]
    body, headers = make_body(), Headers({"Content-Type": content_type})
    started = time.process_time()
    if status is None:
        requests.parse_body(body, headers, ("off", "swap"), 32)
    else:
        with pytest.raises(HTTPError) as refusal:
            requests.parse_body(body, headers, ("off", "swap"), 32)
        assert refusal.value.status == status
        assert len(refusal.value.message) < 1000
    assert time.process_time() - started < 1


def test_predictions_go_on_while_chunks_of_a_byte_arrive(port: int, png: bytes) -> None:
    """Four clients that reconnect after every refusal; a prediction takes well below a second all the same."""
    stop = threading.Event()

    def send_chunks() -> None:
        while not stop.is_set():
            try:
                with connected(port) as line:
                    line.sendall(CHUNKED + b"1\r\na\r\n" * 20_000)
                    read_all(line)
            except OSError:
                continue

    threads = [threading.Thread(target=send_chunks) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        seconds = []
        for _ in range(10):
            started = time.monotonic()
            assert predict_status(port, png) == 200
            seconds.append(time.monotonic() - started)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sorted(seconds)[5] < 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as response:
        assert response.status == 200
