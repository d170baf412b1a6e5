"""Load far beyond the capacity, from many clients at once: all get responses, and memory does not grow."""

import gc
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.deploy.server.state import AppState
from reslab.training.run import Run
from tests.deploy.listening import listening

_PAGE_BYTES = 4096
_GROWTH_BYTES = 48 << 20


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


@pytest.fixture
def narrow(runs: list[Run], settings: ServerSettings) -> Iterator[tuple[AppState, int]]:
    """The port of a server with a small capacity."""
    few = replace(settings, max_in_flight=8, max_images=8, max_batch=4, max_analyses=2, timeout_seconds=20.0)
    app = create_app(runs, few)
    with listening(app, few) as port:
        yield app.state.reslab, port


class Clients:
    """Run `number` clients that send requests in a loop; count the status codes."""

    def __init__(self, port: int, number: int, ask: Callable[[random.Random], tuple[str, bytes]]) -> None:
        self.port, self.number, self.ask = port, number, ask
        self.codes: Counter[int] = Counter()
        self._lock = threading.Lock()

    def run(self, go_on: Callable[[int], bool]) -> None:
        threads = [threading.Thread(target=self._one, args=(seed, go_on)) for seed in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive(), "a request was never answered"

    def _one(self, seed: int, go_on: Callable[[int], bool]) -> None:
        chance, num_requests = random.Random(seed), 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while go_on(num_requests):
            path, body = self.ask(chance)
            connection.request("POST", path, body, {"Content-Type": "image/png"})
            response = connection.getresponse()
            response.read()
            if response.status == 429:
                assert response.headers["Retry-After"] == "1"
            with self._lock:
                self.codes[response.status] += 1
            num_requests += 1
        connection.close()


def test_a_crowd_of_clients_is_served_and_leaves_nothing(narrow: tuple[AppState, int], png: bytes) -> None:
    state, port = narrow
    clients = Clients(port, 24, lambda chance: ("/v1/predict", png))
    clients.run(lambda num_requests: num_requests < 4)
    before = resident_bytes()
    clients.run(lambda num_requests: num_requests < 16)
    assert set(clients.codes) == {200, 429}
    assert clients.codes.total() == 24 * 20
    assert (state.limiter.num_images, state.limiter.num_bytes, state.analysis_limiter.num_images) == (0, 0, 0)
    assert resident_bytes() - before < _GROWTH_BYTES


@pytest.mark.soak
def test_a_minute_of_a_hostile_crowd(narrow: tuple[AppState, int], png: bytes) -> None:
    """Send predictions, analyses, noise, oversized bodies and aborted connections."""
    state, port = narrow
    paths = ("/v1/predict", "/v1/predict?model=plain", "/v1/explain", "/v1/block?block=layer1.0", "/v1/lesion/curve")
    noise = random.Random(0).randbytes(300_000)

    def ask(chance: random.Random) -> tuple[str, bytes]:
        if chance.random() < 0.02:
            with socket.create_connection(("127.0.0.1", port)) as broken:
                broken.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + noise[:5000])
        body = chance.choice([png, png, png, png[: chance.randrange(len(png))], noise, bytes(2_000_000)])
        return chance.choice(paths), body

    clients = Clients(port, 48, ask)
    end = time.monotonic() + 15
    clients.run(lambda num_requests: time.monotonic() < end)
    before = resident_bytes()
    end = time.monotonic() + 60
    clients.run(lambda num_requests: time.monotonic() < end)
    assert set(clients.codes) <= {200, 413, 415, 422, 429, 504}
    assert clients.codes[200] > 0
    assert clients.codes[429] > 0
    assert resident_bytes() - before < _GROWTH_BYTES
    for _ in range(600):
        if state.limiter.num_images == 0:
            break
        time.sleep(0.05)
    assert (state.limiter.num_images, state.limiter.num_bytes, state.analysis_limiter.num_images) == (0, 0, 0)
