"""Overload: requests are rejected at once or time out with 504, and nothing is left behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request
from torch import Tensor

from reslab.deploy.server.app import create_app
from reslab.deploy.server.errors import HTTPError
from reslab.deploy.server.requests import read_request_bytes
from reslab.deploy.server.settings import ServerSettings
from reslab.deploy.server.state import AppState


class Stopper:
    """A batcher whose computation waits until it is released."""

    def __init__(self, state: AppState) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        line = state.models["alone"].load().batcher
        self._compute = line.compute
        line.compute = self

    def __call__(self, images: Sequence[Tensor]) -> Sequence[Tensor]:
        self.begun.set()
        assert self.go.wait(60)
        return self._compute(images)


@pytest.fixture
def small(weights: Path, settings: ServerSettings) -> Iterator[TestClient]:
    """A server with a capacity of four images."""
    with TestClient(create_app([weights], replace(settings, max_in_flight=4, max_images=4, max_analyses=1))) as client:
        yield client


def state_of(client: TestClient) -> AppState:
    return client.app.state.reslab  # type: ignore[attr-defined]


def test_requests_beyond_the_limit_get_429_and_admitted_ones_finish(small: TestClient, png: bytes) -> None:
    state = state_of(small)
    stopper = Stopper(state)
    with ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(small.post, "/v1/predict", content=png) for _ in range(4)]
        while state.limiter.num_images < 4:
            stopper.begun.wait(0.01)
        turned = small.post("/v1/predict", content=png)
        assert (turned.status_code, turned.headers["retry-after"]) == (429, "1")
        assert "try again" in turned.json()["error"]
        assert small.get("/healthz").status_code == 200
        assert "reslab_queue_depth 4.0" in small.get("/metrics").text
        stopper.go.set()
        assert [each.result().status_code for each in taken] == [200] * 4
    assert (state.limiter.num_images, state.limiter.num_bytes) == (0, 0)
    assert small.post("/v1/predict", content=png).status_code == 200


def test_every_image_of_a_request_counts(small: TestClient, png: bytes, text: str) -> None:
    state = state_of(small)
    stopper = Stopper(state)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(small.post, "/v1/predict", json={"images": [text] * 3})
        while state.limiter.num_images < 3:
            stopper.begun.wait(0.01)
        assert small.post("/v1/predict", json={"images": [text] * 2}).status_code == 429
        stopper.go.set()
        assert taken.result().status_code == 200
    assert state.limiter.num_images == 0


def test_one_client_leaves_images_and_analyses_to_others(weights: Path, settings: ServerSettings, png: bytes) -> None:
    """The client at the first address gets 429 at three of four images in flight; another is answered."""
    fair = replace(
        settings, max_in_flight=4, max_images=2, max_analyses=2, max_client_in_flight=3, client_header="X-Forwarded-For"
    )
    busy, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    with TestClient(create_app([weights], fair)) as client:
        state = state_of(client)
        model = state.models["alone"].load().analysis_model
        with ThreadPoolExecutor(2) as pool, model.exclusive():
            taken = pool.submit(client.post, "/v1/explain", content=png, headers=busy)
            while state.analysis_limiter.num_images < 1:
                threading.Event().wait(0.01)
            assert client.post("/v1/explain", content=png, headers=busy).status_code == 429
            others = pool.submit(client.post, "/v1/explain", content=png, headers=other)
            while state.analysis_limiter.num_images < 2:
                threading.Event().wait(0.01)
        assert taken.result().status_code == others.result().status_code == 200
        stopper = Stopper(state)
        with ThreadPoolExecutor(4) as pool:
            taken_images = [pool.submit(client.post, "/v1/predict", content=png, headers=busy) for _ in range(3)]
            while state.limiter.num_images < 3:
                stopper.begun.wait(0.01)
            refused = client.post("/v1/predict", content=png, headers=busy)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "3 of at most 3 images in flight from this client" in refused.json()["error"]
            answered = pool.submit(client.post, "/v1/predict", content=png, headers=other)
            while state.limiter.num_images < 4:
                stopper.begun.wait(0.01)
            stopper.go.set()
            assert [each.result().status_code for each in (*taken_images, answered)] == [200] * 4
        assert (state.limiter.num_client_images, state.analysis_limiter.num_client_images) == ({}, {})


def test_analysis_requests_beyond_the_limit_get_429(small: TestClient, png: bytes) -> None:
    analysis_model = state_of(small).models["alone"].load().analysis_model
    studies = state_of(small).analysis_limiter
    with ThreadPoolExecutor(1) as pool, analysis_model.exclusive():
        taken = pool.submit(small.post, "/v1/explain", content=png)
        while studies.num_images < 1:
            threading.Event().wait(0.01)
        assert small.post("/v1/block", params={"block": "layer1.0"}, content=png).status_code == 429
        assert small.post("/v1/predict", content=png).status_code == 200
    assert taken.result().status_code == 200


def test_what_takes_too_long_ends_in_504_and_leaves_nothing(
    weights: Path, settings: ServerSettings, png: bytes, text: str
) -> None:
    with TestClient(create_app([weights], replace(settings, timeout_seconds=0.3))) as client:
        state = state_of(client)
        stopper = Stopper(state)
        response = client.post("/v1/predict", json={"images": [text, text]})
        assert response.status_code == 504
        assert "0.3" in response.json()["error"]
        assert (state.limiter.num_images, state.limiter.num_bytes) == (0, 0)
        with state.models["alone"].load().analysis_model.exclusive():
            assert client.post("/v1/explain", content=png).status_code == 504
        assert state.analysis_limiter.num_images == 0
        stopper.go.set()
        assert client.post("/v1/predict", content=png).status_code in (200, 504)


def test_an_internal_error_is_500_and_frees_its_slot(weights: Path, settings: ServerSettings, png: bytes) -> None:
    app = create_app([weights], settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        state = state_of(client)

        def fail(images: Sequence[Tensor]) -> Sequence[Tensor]:
            raise RuntimeError("the disk of /secret/place is full")

        state.models["alone"].load().batcher.compute = fail
        response = client.post("/v1/predict", content=png)
        assert response.status_code == 500
        assert set(response.json()) == {"error", "kind"}
        assert "secret" not in response.text
        assert state.limiter.num_images == 0


def request_of(pieces: AsyncIterator[bytes], **headers: str) -> Request:
    async def receive() -> dict[str, object]:
        try:
            return {"type": "http.request", "body": await anext(pieces), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


async def endless(counted: list[int]) -> AsyncIterator[bytes]:
    while True:
        counted.append(1000)
        yield bytes(1000)


def test_a_body_is_measured_while_it_comes() -> None:
    """An endless body is never kept beyond the limit; some more is read, so that the caller gets the response."""
    sent: list[int] = []
    held: list[int] = []
    with pytest.raises(HTTPError, match="at most 5,000 bytes") as refusal:
        asyncio.run(read_request_bytes(request_of(endless(sent)), 5000, held.append, 5.0))
    assert refusal.value.status == 413
    assert sum(held) <= 5000
    assert sum(sent) <= 21_000


def test_a_body_with_a_content_length_beyond_the_limit_is_not_read() -> None:
    sent: list[int] = []
    with pytest.raises(HTTPError, match="got: 99999999"):
        asyncio.run(read_request_bytes(request_of(endless(sent), content_length="99999999"), 5000, len_of, 5.0))
    assert sent == []


def len_of(number: int) -> None:
    assert number


def test_a_body_that_does_not_come_is_408() -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(60)

    with pytest.raises(HTTPError, match=r"within 0\.05 seconds") as refusal:
        asyncio.run(read_request_bytes(request_of(never()), 5000, len_of, 0.05))
    assert refusal.value.status == 408


def test_too_long_a_body_over_the_wire(client: TestClient) -> None:
    response = client.post("/v1/predict", content=bytes((1 << 20) + 1), headers={"Content-Type": "image/png"})
    assert response.status_code == 413
    assert "1,048,576 bytes" in response.json()["error"]


def test_memory_for_bodies_is_bounded(weights: Path, settings: ServerSettings) -> None:
    with TestClient(create_app([weights], replace(settings, max_bytes_in_flight=1 << 20))) as client:
        state_of(client).limiter.num_bytes = 1 << 20  # others hold it all
        assert client.post("/v1/predict", content=b"x").status_code == 429
        state_of(client).limiter.num_bytes = 0
        assert client.post("/v1/predict", content=b"x").status_code == 415
