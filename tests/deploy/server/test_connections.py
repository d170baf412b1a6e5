"""Connections that never finish are closed: endless headers, silence, endless bodies and responses."""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.training.run import Run
from tests.deploy.listening import listening

# Far beyond what a cut takes, below what uvicorn alone would wait.
PATIENCE_SECONDS = 20
CHUNKED = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def hasty(settings: ServerSettings) -> ServerSettings:
    """A server with half a second for a header and one and a half for an exchange."""
    return replace(settings, header_timeout_seconds=0.5, timeout_seconds=0.5)


@pytest.fixture(scope="module")
def port(runs: list[Run], hasty: ServerSettings) -> Iterator[int]:
    with listening(create_app(runs[:1], hasty), hasty) as listening_port:
        yield listening_port


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        yield connection


def read_all(line: socket.socket) -> bytes:
    """Read until the other side closes the connection; fail if it never does."""
    received = b""
    try:
        while piece := line.recv(1 << 16):
            received += piece
    except ConnectionError:
        pass
    return received


def answered(line: socket.socket) -> None:
    """Read one complete response to HEAD and keep the connection open."""
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        piece = line.recv(1 << 16)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 200 ")


def flood(line: socket.socket, piece: bytes, num_bytes: int) -> int:
    """Send the same bytes repeatedly until the other side closes; return the number of bytes sent."""
    sent = 0
    try:
        while sent < num_bytes:
            line.sendall(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /healthz HTTP/1.1\r\nX: ", b"a" * 4096),
        (b"GET /healthz HTTP/1.1\r\n", b"X: a\r\n" * 700),
        (b"GET /", b"a" * 4096),
        (
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            b"X: a\r\n" * 700,
        ),
    ],
    ids=["header", "headers", "address", "trailers"],
)
def test_head_without_end_is_cut(port: int, begin: bytes, more: bytes) -> None:
    with connected(port) as line:
        line.sendall(begin)
        assert flood(line, more, 64 << 20) < 64 << 20


def test_head_that_is_too_long_is_reported(port: int) -> None:
    with connected(port) as line:
        line.sendall(HEAD + b"X: " + b"a" * 70_000)
        assert read_all(line).startswith(b"HTTP/1.1 431 ")


def test_long_head_within_the_limit_is_read(port: int) -> None:
    with connected(port) as line:
        line.sendall(HEAD + b"Connection: close\r\nX: " + b"a" * 30_000 + b"\r\n\r\n")
        assert read_all(line).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begin", [b"", b"G", HEAD], ids=["silence", "a letter", "half a head"])
def test_incomplete_request_is_closed_on_timeout(port: int, begin: bytes) -> None:
    with connected(port) as line:
        line.sendall(begin)
        assert read_all(line) == b""


def test_the_second_request_of_a_connection_has_a_deadline_too(port: int) -> None:
    with connected(port) as line:
        line.sendall(HEAD + b"\r\n" + HEAD)
        assert read_all(line).count(b"HTTP/1.1 200 ") == 1


def test_an_open_connection_may_be_idle_between_requests(port: int) -> None:
    with connected(port) as line:
        line.sendall(HEAD + b"\r\n")
        answered(line)
        time.sleep(2)
        line.sendall(HEAD + b"Connection: close\r\n\r\n")
        assert read_all(line).startswith(b"HTTP/1.1 200 ")


def test_body_that_nobody_reads_is_cut(port: int) -> None:
    with connected(port) as line:
        line.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        answered(line)
        assert read_all(line) == b""


def test_idle_connection_is_not_kept_by_what_is_no_request(port: int) -> None:
    """uvicorn cancels its keep-alive timeout at every byte and sets it again with the next response."""
    with connected(port) as line:
        line.sendall(HEAD + b"\r\n")
        answered(line)
        line.sendall(b"\r\n")
        assert read_all(line) == b""
    with connected(port) as line:
        line.sendall(HEAD + b"Content-Length: 2\r\n\r\n")
        answered(line)
        line.sendall(b"ab")
        assert read_all(line) == b""


def test_pipelined_requests_far_ahead_of_their_responses_are_cut(port: int) -> None:
    """uvicorn would queue any number of requests and parse all of them first."""
    with connected(port) as line:
        flood(line, (HEAD + b"\r\n") * 1000, 16 << 20)
        assert read_all(line).count(b"HTTP/1.1 200 ") <= 1000
    with connected(port) as line:
        line.sendall((HEAD + b"\r\n") * 9 + HEAD + b"Connection: close\r\n\r\n")
        assert read_all(line).count(b"HTTP/1.1 200 ") == 10


def test_client_that_never_reads_is_closed(port: int) -> None:
    """Send requests without reading until the responses fill the connection: it is closed, and nothing hangs."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(PATIENCE_SECONDS)
        line.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            ask_slowly(line)


def ask_slowly(line: socket.socket) -> None:
    begun = time.monotonic()
    while time.monotonic() < begun + 2 * PATIENCE_SECONDS:
        line.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.01)


def test_idle_connections_are_closed_for_new_ones_the_oldest_first(runs: list[Run], settings: ServerSettings) -> None:
    ask = HEAD + b"Connection: close\r\n\r\n"
    few = replace(settings, max_connections=4)
    with listening(create_app(runs[:1], few), few) as port, ExitStack() as stack:
        lines = [stack.enter_context(connected(port)) for _ in range(4)]
        for line in lines:
            line.sendall(HEAD + b"\r\n")
            answered(line)
        for _ in range(3):
            with connected(port) as beyond:
                beyond.sendall(ask)
                assert read_all(beyond).startswith(b"HTTP/1.1 200 ")
        assert read_all(lines[0]) == b""
        lines[3].sendall(ask)
        assert read_all(lines[3]).startswith(b"HTTP/1.1 200 ")


def test_without_uvloop_connections_end_the_same_way(runs: list[Run], hasty: ServerSettings) -> None:
    with listening(create_app(runs[:1], hasty), hasty, loop="asyncio") as port:
        test_head_that_is_too_long_is_reported(port)
        test_incomplete_request_is_closed_on_timeout(port, HEAD)
        test_an_open_connection_may_be_idle_between_requests(port)
        test_idle_connection_is_not_kept_by_what_is_no_request(port)
        test_client_that_never_reads_is_closed(port)


def test_a_truncated_body_is_a_client_error(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), connected(port) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nabc")
    with caplog.at_level(logging.WARNING), connected(port) as line:
        line.sendall(HEAD.replace(b"healthz", b"metrics") + b"Connection: close\r\n\r\n")
        metrics = read_all(line).decode()
    assert 'code="500"' not in metrics
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
