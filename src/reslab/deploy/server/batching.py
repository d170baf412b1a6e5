"""The line before a network: images that wait are computed together, a lone one at once."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class DynamicBatcher(Generic[InputT, OutputT]):
    """One thread that takes what waits, at most `max_batch` at once, and answers each by its Future.

    Nobody is waited for: a batch is what has gathered while the one before was computed. `compute` gives one answer for
    each item; what it raises becomes the answer of the whole batch. `told` hears the size of each batch. A Future that
    was cancelled is passed over. How many may wait is bounded by who submits (`Room`).
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
        self._thread = threading.Thread(target=self._run, name=f"line of {name}", daemon=True)
        self._thread.start()

    def submit(self, item: InputT, future: "Future[OutputT] | None" = None) -> "Future[OutputT]":
        """The answer to come, in `future` where one waits already."""
        result: Future[OutputT] = Future() if future is None else future
        self._queue.put((item, result))
        return result

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._process([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _next_batch(self) -> "list[tuple[InputT, Future[OutputT]]] | None":
        """What waits now, or the first to come; None at the end."""
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
        except Exception as error:  # whatever went wrong is told to those who wait; the thread lives on
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
