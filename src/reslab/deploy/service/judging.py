"""What a network makes of its run's test images: judged once, a little at a time, when first asked for."""

import asyncio
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reslab.deploy.server.routes.samples import Samples, Shelf
from reslab.deploy.server.state import House
from reslab.deploy.service.served import Opened, Served
from reslab.metrics.classification import class_scores

MOST_IMAGES = 2000
_BATCH = 32
_NUM_MISTAKES = 24


@dataclass(frozen=True, eq=False)
class Judged:
    """Of `numbers` on the shelf: labels (N,), the classes they were called by (N,), and how probable those are (N,)."""

    shelf: Shelf
    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    labels: Tensor
    called: Tensor
    sure: Tensor

    def confusion(self) -> list[list[int]]:
        """confusion[true][called]: how many."""
        num = len(self.classes)
        counts = torch.bincount(self.labels * num + self.called, minlength=num * num).view(num, num)
        return [[int(count) for count in row] for row in counts]

    def mistakes(self) -> list[dict[str, Any]]:
        """The wrong answers given with the greatest certainty, the surest first."""
        wrong = (self.called != self.labels).nonzero().flatten()
        order = wrong[self.sure[wrong].argsort(descending=True, stable=True)][:_NUM_MISTAKES]
        return [self.row(place) for place in order.tolist()]

    def cell(self, true: int, called: int) -> list[dict[str, Any]]:
        """The pictures of one class that were called by another, or by their own."""
        places = ((self.labels == true) & (self.called == called)).nonzero().flatten()
        return [self.row(place) for place in places.tolist()]

    def row(self, place: int) -> dict[str, Any]:
        """id, true, predicted, probability, name."""
        number = self.numbers[place]
        return {
            "id": number,
            "true": self.classes[int(self.labels[place])],
            "predicted": self.classes[int(self.called[place])],
            "probability": float(self.sure[place]),
            "name": self.shelf.images.name(number),
        }

    def per_class(self) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class; null where nothing defines one."""
        rows = class_scores(self.confusion(), self.classes)
        return [
            {
                "name": row.name,
                "num_samples": row.num_samples,
                **{name: _number(getattr(row, name)) for name in ("precision", "recall", "f1")},
            }
            for row in rows
        ]


def _number(value: float) -> float | None:
    return None if value != value else value


class Judge:
    """The judgements of all networks. One is begun by the first who asks, and lets others in between its batches."""

    def __init__(self, house: House, samples: Samples) -> None:
        self.house, self.samples = house, samples
        self._tasks: dict[str, asyncio.Task[Judged]] = {}

    def begun(self, served: Served) -> "asyncio.Task[Judged]":
        """The judgement of a network, done or under way."""
        task = self._tasks.get(served.name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks[served.name] = asyncio.create_task(self._judge(served))
        return task

    async def stop(self) -> None:
        """Leave off what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _judge(self, served: Served) -> Judged:
        opened = await self.house.opened(served.name)
        shelf = await asyncio.to_thread(self.samples.shelf, served)
        numbers = shelf.order[:MOST_IMAGES]
        found = [
            await self.house.study_later(opened, _judged_batch, opened, shelf, numbers[start : start + _BATCH])
            for start in range(0, len(numbers), _BATCH)
        ]
        called, sure = (torch.cat([each[part] for each in found]) for part in (0, 1))
        return Judged(shelf, opened.classes, numbers, shelf.images.labels[list(numbers)], called, sure)


def _judged_batch(opened: Opened, shelf: Shelf, numbers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    specimen = opened.specimen
    x = shelf.batch(numbers).to(specimen.device)
    with specimen.taken() as network:
        sure, called = specimen.probabilities(network, x).max(1)
    return called, sure
