"""Dynamic batching: waiting images are computed together, a single one immediately."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class DynamicBatcher(Generic[InputT, OutputT]):
    """A thread that computes waiting items in batches of at most `max_batch` and sets the result of each Future.

    There is no waiting time: a batch is whatever was submitted while the previous one was computed. `compute` returns
    one result per item; an exception becomes the result of the whole batch. `on_batch` is called with the size of each
    batch. Cancelled Futures are skipped. The queue is unbounded; callers limit it (`AdmissionLimiter`).
    """

    def __init__(
        self,
        compute: Callable[[Sequence[InputT]], Sequence[OutputT]],
        max_batch: int,
        on_batch: Callable[[int], None] = lambda size: None,
        name: str = "",
    ) -> None:
        self.compute, self.max_batch, self.on_batch = compute, max_batch, on_batch
        self._queue: queue.SimpleQueue[tuple[InputT, Future[OutputT]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"batcher of {name}", daemon=True)
        self._thread.start()

    def submit(self, item: InputT) -> "Future[OutputT]":
        """Queue an item; return the Future of its result."""
        result: Future[OutputT] = Future()
        self._queue.put((item, result))
        return result

    def close(self, wait: bool = True) -> None:
        """Compute what was submitted, then end the thread; with `wait`, return only then."""
        self._queue.put(None)
        if wait:
            self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._process([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _next_batch(self) -> "list[tuple[InputT, Future[OutputT]]] | None":
        """Return the waiting items, or wait for the first one; None after `close`."""
        first = self._queue.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self.max_batch:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                self._queue.put(None)
                break
            batch.append(entry)
        return batch

    def _process(self, batch: "list[tuple[InputT, Future[OutputT]]]") -> None:
        if not batch:
            return
        self.on_batch(len(batch))
        try:
            results = self.compute([item for item, _ in batch])
            assert len(results) == len(batch), (len(results), len(batch))
        except Exception as error:  # reported to the waiting callers; the thread must survive
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
