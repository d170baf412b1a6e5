"""The line before a network: pictures that wait are computed together, a lone one at once."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Line(Generic[In, Out]):
    """One thread that takes what waits, at most `max_batch` at once, and answers each by its Future.

    Nobody is waited for: a batch is what has gathered while the one before was computed. `compute` gives one answer for
    each item; what it raises becomes the answer of the whole batch. `told` hears the size of each batch. A Future that
    was cancelled is passed over. How many may wait is bounded by who submits (`Room`).
    """

    def __init__(
        self,
        compute: Callable[[Sequence[In]], Sequence[Out]],
        max_batch: int,
        told: Callable[[int], None] = lambda size: None,
        name: str = "",
    ) -> None:
        self.compute, self.max_batch, self.told = compute, max_batch, told
        self._waiting: queue.SimpleQueue[tuple[In, Future[Out]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"line of {name}", daemon=True)
        self._thread.start()

    def submit(self, item: In, future: "Future[Out] | None" = None) -> "Future[Out]":
        """The answer to come, in `future` where one waits already."""
        answer: Future[Out] = Future() if future is None else future
        self._waiting.put((item, answer))
        return answer

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            self._answer([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _gather(self) -> "list[tuple[In, Future[Out]]] | None":
        """What waits now, or the first to come; None at the end."""
        first = self._waiting.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self.max_batch:
            try:
                more = self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._waiting.put(None)
                break
            batch.append(more)
        return batch

    def _answer(self, batch: "list[tuple[In, Future[Out]]]") -> None:
        if not batch:
            return
        self.told(len(batch))
        try:
            answers = self.compute([item for item, _ in batch])
            assert len(answers) == len(batch), (len(answers), len(batch))
        except Exception as error:  # whatever went wrong is told to those who wait; the thread lives on
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
