"""Downloads of weights from servers that misbehave: bounded in bytes and time, and never led to another scheme."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reslab.nn.checkpoints import published
from reslab.nn.checkpoints.published import WeightsUnavailableError, fetch_weights

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Start a server whose every answer is made by the given function; return its URL."""
    servers = []

    def start(result: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    result(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/w.pth"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def respond(handler: BaseHTTPRequestHandler, code: int = 200, **headers: str) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def send_content(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, Content_Length=str(len(CONTENT)))
    handler.wfile.write(CONTENT)


def send_without_end(handler: BaseHTTPRequestHandler) -> None:
    respond(handler)
    for _ in range(10_000):
        handler.wfile.write(bytes(1 << 16))


def send_slowly(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, Content_Length=str(len(CONTENT)))
    for _ in range(200):
        handler.wfile.write(b"w")
        time.sleep(0.02)


def test_an_honest_server_is_read_and_a_redirect_on_it_followed(serve: Callable[[Answer], str], tmp_path: Path) -> None:
    def redirect_once(handler: BaseHTTPRequestHandler) -> None:
        send_content(handler) if handler.path == "/moved/w.pth" else respond(handler, 302, Location="/moved/w.pth")

    path = fetch_weights(serve(redirect_once), DIGEST, "weights", tmp_path)
    assert path.read_bytes() == CONTENT


BAD_ANSWERS: dict[str, tuple[Answer, str]] = {
    "without end": (send_without_end, "larger than 1,000,000 bytes"),
    "declares 10^15 bytes": (lambda handler: respond(handler, Content_Length="1" + "0" * 15), "larger than 1,000,000"),
    "declares no number": (lambda handler: respond(handler, Content_Length="-5"), "its length is '-5'"),
    "declares 5000 digits": (lambda handler: respond(handler, Content_Length="9" * 5000), "its length is '999"),
    "a byte at a time": (send_slowly, "too slow: [0-9]+ bytes"),
    "redirect to a file": (
        lambda handler: respond(handler, 302, Location="file:///etc/hosts"),
        "needs https|is not allowed",
    ),
    "redirect to ftp": (
        lambda handler: respond(handler, 302, Location="ftp://127.0.0.1/w.pth"),
        "needs https|is not allowed",
    ),
    "redirect to another host": (
        lambda handler: respond(handler, 302, Location="http://localhost:1/w.pth"),
        "needs https",
    ),
    "redirect to itself": (lambda handler: respond(handler, 302, Location="/w.pth"), "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_server_that_misbehaves_is_given_up_and_leaves_no_file(
    serve: Callable[[Answer], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    result, reason = BAD_ANSWERS[kind]
    monkeypatch.setattr(published, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(published, "SLOW_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match=reason) as caught:
        fetch_weights(serve(result), DIGEST, "weights", tmp_path)
    assert time.monotonic() - start < 5
    assert "put it at" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_of_another_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="neither https nor http"):
        fetch_weights("ftp://127.0.0.1/w.pth", DIGEST, "weights", tmp_path)
