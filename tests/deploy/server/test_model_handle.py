"""Dynamic batching: a single image is computed at once, waiting ones together."""

import threading
from collections.abc import Sequence
from concurrent.futures import wait

import pytest

from reslab.deploy.server.model_handle import DynamicBatcher


class Held:
    """A function that doubles numbers, once released, and records its batches."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.begun.release()
        self.go.acquire()
        return [2 * number for number in numbers]


def test_a_lone_item_is_computed_at_once_and_those_that_gather_together() -> None:
    held, sizes = Held(), []
    line = DynamicBatcher(held, 4, sizes.append)
    first = line.submit(0)
    held.begun.acquire()  # the thread has it, alone, and nothing else was waited for
    others = [line.submit(number) for number in range(1, 7)]
    held.go.release(9)
    wait([first, *others])
    line.close()
    assert held.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert sizes == [1, 4, 2]
    assert [each.result() for each in (first, *others)] == [2 * number for number in range(7)]


def test_a_cancelled_request_is_not_computed() -> None:
    held = Held()
    line = DynamicBatcher(held, 4)
    first = line.submit(0)
    held.begun.acquire()
    dropped, kept = line.submit(1), line.submit(2)
    assert dropped.cancel()
    held.go.release(9)
    assert kept.result(10) == 4
    line.close()
    assert first.result() == 0
    assert held.batches == [[0], [2]]


def test_an_error_reaches_the_requests_of_its_batch_and_the_batcher_continues() -> None:
    def compute(numbers: Sequence[int]) -> list[int]:
        if 0 in numbers:
            raise ValueError("no zero")
        return list(numbers)

    line = DynamicBatcher(compute, 1)
    broken, whole = line.submit(0), line.submit(1)
    with pytest.raises(ValueError, match="no zero"):
        broken.result(10)
    assert whole.result(10) == 1
    line.close()


def test_closing_finishes_what_was_submitted() -> None:
    held = Held()
    line = DynamicBatcher(held, 2)
    futures = [line.submit(number) for number in range(5)]
    held.go.release(9)
    line.close()
    assert all(future.done() for future in futures)
