"""Attacks on a server in a process of its own, about ninety seconds; prints what was tried and what failed.

pytest -m soak -s tests/deploy/server/test_attacks.py
"""

import contextlib
import http.client
import io
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reslab.training.run import Run

pytestmark = pytest.mark.soak

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n"
TIMEOUT_SECONDS = 60.0


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)


def exchange(port: int, request: bytes) -> int:
    """Send a request on a new connection; return the status of the response, 0 for a connection without one."""
    try:
        with connect(port) as line:
            with contextlib.suppress(ConnectionError):  # it may be refused before it is sent
                line.sendall(request)
            response = line.recv(1 << 16)
            while line.recv(1 << 16):
                pass
    except ConnectionError:
        response = b""
    except TimeoutError:
        return -1
    return int(response.split(b" ", 2)[1]) if response.startswith(b"HTTP/1.1 ") else 0


def request_of(body: bytes, content_type: bytes = b"image/png", headers: bytes = b"") -> bytes:
    head = HEAD % content_type + headers + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


@dataclass
class Attack:
    """One attack: its name, what a client does in a loop, for how many clients and seconds, and allowed statuses."""

    name: str
    act: Callable[[int, random.Random], int]
    num_clients: int
    allowed: set[int]
    seconds: float = 6.0
    statuses: Counter[int] = field(default_factory=Counter)

    def run(self, port: int, probe: Callable[[int], int]) -> tuple[list[float], Counter[int]]:
        """Run the clients, and beside them predictions one after the other: their seconds and statuses."""
        end = time.monotonic() + self.seconds
        lock = threading.Lock()

        def work(seed: int) -> None:
            draw = random.Random(seed)
            while time.monotonic() < end:
                status = self.act(port, draw)
                with lock:
                    self.statuses[status] += 1

        threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(self.num_clients)]
        for thread in threads:
            thread.start()
        times, statuses = [], Counter[int]()
        while time.monotonic() < end:
            started = time.monotonic()
            statuses[probe(port)] += 1
            times.append(time.monotonic() - started)
            time.sleep(0.05)
        for thread in threads:
            thread.join(3 * TIMEOUT_SECONDS)
            assert not thread.is_alive(), f"{self.name}: a client was never answered"
        return times, statuses


def jpeg_of_scans(num_scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", progressive=True, quality=30)
    content = stream.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * num_scans + b"\xff\xd9"


def png_with_alpha() -> bytes:
    """Return a small file of 49 million pixels with a palette and a transparent color."""
    stream = io.BytesIO()
    Image.new("P", (7000, 7000)).save(stream, "PNG", transparency=0)
    return stream.getvalue()


def slow_body(port: int, draw: random.Random) -> int:
    try:
        with connect(port) as line:
            line.sendall(HEAD % b"image/png" + b"Content-Length: 10000\r\n\r\n")
            for _ in range(6):
                line.sendall(b"a")
                time.sleep(1)
    except OSError:
        return 0
    return 0


def idle(port: int, draw: random.Random) -> int:
    with ExitStack() as stack, contextlib.suppress(OSError):
        for _ in range(65):
            stack.enter_context(connect(port))
        time.sleep(4)
    return 0


def small_chunks(port: int, draw: random.Random) -> int:
    chunked = HEAD % b"image/png" + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return exchange(port, chunked + b"1\r\na\r\n" * 50_000)


def malformed(port: int, draw: random.Random) -> int:
    choices = (
        draw.randbytes(draw.randrange(1, 5000)) + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        HEAD % b"image/png" + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD % b"image/png" + b"Connection: close\r\nContent-Length: -5\r\n\r\n",
        HEAD % b"image/png" + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        request_of(draw.randbytes(2000), b"multipart/form-data; boundary=b"),
        request_of(b'{"images": ' + b"[" * 30_000, b"application/json"),
        request_of(draw.randbytes(3000), b"application/json"),
    )
    try:
        with connect(port) as line:
            line.sendall(draw.choice(choices))
            line.shutdown(socket.SHUT_WR)
            response = line.recv(1 << 16)
    except ConnectionError:
        return 0
    return int(response.split(b" ", 2)[1]) if response else 0


SCANS, ALPHA = jpeg_of_scans(400), png_with_alpha()
GIANT_NAME = json.dumps({"x" * (15 << 20): ""}).encode()
EVIL = b"Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n"


def attacks(png: bytes) -> list[Attack]:
    return [
        Attack("slow bodies", slow_body, 130, {0}, 12.0),
        Attack("idle connections", idle, 8, {0}, 8.0),
        Attack("chunks of a byte", small_chunks, 4, {0, 400}),
        Attack(
            "giant names", lambda port, _: exchange(port, request_of(GIANT_NAME, b"application/json")), 6, {422, 429}
        ),
        Attack("JPEG scans", lambda port, _: exchange(port, request_of(SCANS, b"image/jpeg")), 4, {413, 422, 429, 504}),
        Attack("alpha images", lambda port, _: exchange(port, request_of(ALPHA)), 4, {200, 413, 422, 429, 504}),
        Attack("cross-origin", lambda port, _: exchange(port, request_of(png, headers=EVIL)), 4, {403}),
        Attack("malformed requests", malformed, 8, {0, 400, 413, 415, 422, 431}),
    ]


@pytest.fixture
def server(runs: list[Run], tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """`reslab serve` with its defaults, and its port."""
    arguments = [sys.executable, "-m", "reslab", "serve", *(str(run.path) for run in runs), "--port", "0"]
    log_path = tmp_path / "log.txt"
    with log_path.open("wb") as log:
        process = subprocess.Popen([*arguments, "--backend", "torch"], stderr=log, stdout=subprocess.DEVNULL)
    try:
        yield process, wait_for_port(log_path)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log_path.read_text(), log_path.read_text()[-5000:]


def wait_for_port(log_path: Path) -> int:
    for _ in range(1200):
        match = re.search(r"http://127\.0\.0\.1:(\d+)", log_path.read_text())
        if match:
            return int(match[1])
        time.sleep(0.1)
    raise AssertionError(log_path.read_text())


def resident_mb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


def test_attacks_slow_down_only_the_attackers(server: tuple["subprocess.Popen[bytes]", int], png: bytes) -> None:
    process, port = server
    failures: list[str] = []

    def probe(port: int) -> int:
        return exchange(port, request_of(png))

    assert probe(port) == 200
    before = resident_mb(process.pid)
    print(
        f"\n{'attack':20} {'tried':>6}  answers (0: closed); predictions beside it: answers, median and longest seconds"
    )
    for attack in attacks(png):
        times, statuses = attack.run(port, probe)
        median, longest = statistics.median(times), max(times)
        print(f"{attack.name:20} {attack.statuses.total():6}  {dict(attack.statuses)}; {dict(statuses)}, "
              f"{median:.3f}, {longest:.2f}, {resident_mb(process.pid)} MB")  # fmt: skip
        if set(attack.statuses) - attack.allowed:
            failures.append(f"{attack.name}: answers {dict(attack.statuses)}, allowed {attack.allowed}")
        if set(statuses) != {200}:
            failures.append(f"{attack.name}: predictions beside it {dict(statuses)}")
        if longest > 20:
            failures.append(f"{attack.name}: a prediction took {longest:.1f} s")
    growth = resident_mb(process.pid) - before
    if growth > 512:
        failures.append(f"memory grew by {growth} MB")
    failures += overload_until_sigterm(process, port, png)
    print("\n".join(["failed:", *failures] if failures else ["nothing failed"]))
    assert not failures


def overload_until_sigterm(process: "subprocess.Popen[bytes]", port: int, png: bytes) -> list[str]:
    """Send predictions from 64 clients on open connections, then SIGTERM; return what was not answered."""
    statuses: Counter[str] = Counter()
    lock, signaled = threading.Lock(), threading.Event()
    signal_time = [float("inf")]

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            send_until_signal(connection)

    def send_until_signal(connection: http.client.HTTPConnection) -> None:
        while not signaled.is_set():
            try:
                connection.request("POST", "/v1/predict", png, {"Content-Type": "image/png"})
            except OSError:
                return  # not sent
            sent = time.monotonic()
            try:
                response = connection.getresponse()
                response.read()
                status = str(response.status)
            except (OSError, http.client.HTTPException):
                status = "unanswered"
            with lock:
                statuses[f"{status} {'before' if sent < signal_time[0] else 'after'}"] += 1
            if status == "unanswered":
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(64)]
    for thread in threads:
        thread.start()
    time.sleep(6)
    signal_time[0] = time.monotonic()
    process.send_signal(signal.SIGTERM)
    signaled.set()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    ended = process.wait(TIMEOUT_SECONDS)
    print(f"overload with SIGTERM {statuses.total():6}  by answer and time of sending {dict(statuses)}; exit {ended}")
    failures = [f"SIGTERM: {statuses['unanswered before']} requests sent before it were not answered"]
    failures = failures if statuses["unanswered before"] else []
    return failures + ([f"SIGTERM: exit status {ended}"] if ended else [])
