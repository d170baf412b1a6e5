"""Processes that decode images: a slow image costs only its own request, and a process that ends is replaced."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from reslab.deploy.inputs import InferenceTransform
from reslab.deploy.server import decoding
from reslab.deploy.server.app import create_app
from reslab.deploy.server.decoding import DecodePool
from reslab.deploy.server.errors import HTTPError
from reslab.deploy.server.settings import ServerSettings
from reslab.spec.preprocess import Preprocess
from tests.deploy.server.test_hostile_files import png_of

SLOW_IMAGE = png_of(8000, 8000, bytes(8001 * 8000))
TRANSFORM = InferenceTransform(Preprocess(transform="", channels=1, mean=(0.5,), std=(0.5,)), (8, 8))


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(2, 30.0, 100_000_000)
    pool.start()
    yield pool
    pool.close()


def pids(pool: DecodePool) -> set[int]:
    return {worker.pid for worker in pool._workers if worker is not None}


def test_slow_image_gets_504_and_the_others_their_results(weights: Path, settings: ServerSettings, png: bytes) -> None:
    limits = replace(settings, max_pixels=100_000_000, num_decode_workers=2, decode_seconds=0.2)
    with TestClient(create_app([weights], limits)) as client, ThreadPoolExecutor(5) as executor:
        assert client.post("/v1/predict", content=png).status_code == 200
        slow = executor.submit(client.post, "/v1/predict", content=SLOW_IMAGE)
        started = time.monotonic()
        fast = [executor.submit(client.post, "/v1/predict", content=png) for _ in range(4)]
        assert [request.result().status_code for request in fast] == [200] * 4
        result = slow.result()
        assert (result.status_code, "within 0.2 seconds" in result.json()["error"]) == (504, True)
        assert time.monotonic() - started < 5
        assert client.post("/v1/predict", content=png).status_code == 200


def test_process_that_takes_too_long_is_replaced(pool: DecodePool, png: bytes) -> None:
    before = pids(pool)

    async def decode_all() -> list[object]:
        pool.timeout_seconds = 0.1
        first = await asyncio.gather(pool.decode(SLOW_IMAGE, TRANSFORM), return_exceptions=True)
        pool.timeout_seconds = 30.0
        return [*first, *await asyncio.gather(*(pool.decode(png, TRANSFORM) for _ in range(4)))]

    error, *images = asyncio.run(decode_all())
    assert isinstance(error, HTTPError)
    assert (error.status, [tuple(image.read_pixels.shape) for image in images]) == (504, [(1, 8, 8)] * 4)  # type: ignore[attr-defined]
    assert len(pids(pool)) == 2
    assert len(before & pids(pool)) == 1
    (ended,) = before - pids(pool)
    assert has_ended(ended)


def test_slow_images_leave_their_slots_to_others(pool: DecodePool, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slow images on two processes: the next image does not wait for them, and no more processes than six run."""
    monkeypatch.setattr(decoding, "_SLOW_SECONDS", 0.05)

    async def decode_all() -> tuple[int, list[object]]:
        slow = [asyncio.create_task(pool.decode(SLOW_IMAGE, TRANSFORM)) for _ in range(4)]
        await asyncio.sleep(0.1)
        await pool.decode(png, TRANSFORM)
        num_pending = sum(not task.done() for task in slow)
        return num_pending, list(await asyncio.gather(*slow, *(pool.decode(png, TRANSFORM) for _ in range(8))))

    num_pending, images = asyncio.run(decode_all())
    assert num_pending > 0
    assert [tuple(image.read_pixels.shape) for image in images] == [(1, 8, 8)] * 12  # type: ignore[attr-defined]
    assert 2 < len(pids(pool)) <= 6
    assert pool._idle.qsize() == 2


def has_ended(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_image_that_ends_its_process_is_refused_and_the_next_one_decoded(pool: DecodePool, png: bytes) -> None:
    async def decode_both() -> tuple[object, object]:
        task = asyncio.create_task(pool.decode(SLOW_IMAGE, TRANSFORM))
        await asyncio.sleep(0.05)
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        (error,) = await asyncio.gather(task, return_exceptions=True)
        (other,) = await asyncio.gather(pool.decode(png, TRANSFORM), return_exceptions=True)
        return error, await pool.decode(png, TRANSFORM) if isinstance(other, HTTPError) else other

    error, image = asyncio.run(decode_both())
    assert isinstance(error, HTTPError)
    assert error.status == 422
    assert tuple(image.read_pixels.shape) == (1, 8, 8)  # type: ignore[attr-defined]


def test_signals_that_ask_the_server_to_finish_leave_the_processes(pool: DecodePool, png: bytes) -> None:
    async def decode_during_signals() -> object:
        await asyncio.gather(*(pool.decode(png, TRANSFORM) for _ in range(4)))
        before = pids(pool)
        for pid in before:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        images = await asyncio.gather(*(pool.decode(png, TRANSFORM) for _ in range(4)))
        assert pids(pool) == before
        return images[0]

    assert tuple(asyncio.run(decode_during_signals()).read_pixels.shape) == (1, 8, 8)  # type: ignore[attr-defined]


def test_cancelled_request_frees_its_process(pool: DecodePool, png: bytes) -> None:
    async def cancel() -> object:
        tasks = [asyncio.create_task(pool.decode(SLOW_IMAGE, TRANSFORM)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            return await pool.decode(png, TRANSFORM)

    assert tuple(asyncio.run(cancel()).read_pixels.shape) == (1, 8, 8)  # type: ignore[attr-defined]
    assert threading.active_count() < 50
