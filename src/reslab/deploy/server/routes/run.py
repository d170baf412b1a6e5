"""`/v1/models/NAME/run`: the curves of a run as far as it is, and what its network makes of the test images.

What a network makes of its run's test images: judged once, a little at a time, when first asked for.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from torch import Tensor

from reslab.deploy.server.errors import Refused, refused
from reslab.deploy.server.routes.samples import Samples, Shelf
from reslab.deploy.server.schemas import LATE, SEEING, ConfusionAnswer, PathName, RunAnswer
from reslab.deploy.server.state import House, Opened, Served
from reslab.metrics.classification import per_class_metrics
from reslab.spec.optim import parse_duration
from reslab.training.run import Run

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
        rows = per_class_metrics(self.confusion(), self.classes)
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


# A matrix of more classes is no picture any more, and a long answer.
_MOST_CLASSES = 200
_PATIENCE_SECONDS = 1.0


def run_routes(house: House, judge: Judge) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get("/v1/models/{name}/run", response_model=RunAnswer, responses=SEEING)
    async def run(
        name: PathName, since: Annotated[int, Query(ge=0, description="Lines of the log to leave out.")] = 0
    ) -> JSONResponse:
        """The log from line `since` on; `judged` tells whether the test images have been judged by now."""
        served = house.find(name)
        told = await asyncio.to_thread(_log, _run_of(served), since)
        return JSONResponse({**told, **await _judgement(judge, served)})

    @router.get("/v1/models/{name}/confusion", response_model=ConfusionAnswer, responses=SEEING | LATE)
    async def confusion(
        name: PathName,
        true: Annotated[int, Query(ge=0, description="The row of the matrix.")],
        predicted: Annotated[int, Query(ge=0, description="Its column.")],
    ) -> JSONResponse:
        """The pictures of one cell; classes by number, as rows and columns of the matrix."""
        served = house.find(name)
        _run_of(served)
        if max(true, predicted) >= served.arch.num_classes:
            raise refused(422, f"classes from 0 to {served.arch.num_classes - 1}", f"{true} and {predicted}")
        async with house.in_time():
            judged = await asyncio.shield(judge.begun(served))
        return JSONResponse({"samples": judged.cell(true, predicted)})

    return router


def _run_of(served: Served) -> Run:
    if served.run is None:
        raise refused(404, "a run, which has a log", f"{served.name}, weights alone", "serve its folder")
    return served.run


def _log(run: Run, since: int) -> dict[str, Any]:
    """The lines as they are now; run.json is read again, as it tells the end."""
    run = Run(run.path)
    lines = run.log.lines()
    step = max((int(line["step"]) for line in lines if "step" in line), default=0)
    return {
        "log": lines[since:],
        "num_lines": len(lines),
        "classes": list(run.classes),
        "finished": run.result is not None,
        "step": step,
        "total": _total(run, lines, step),
    }


def _total(run: Run, lines: list[dict[str, Any]], step: int) -> int | None:
    """Steps in all: as the recipe tells them, or by the epochs that have passed; None before the first line."""
    if run.result is not None:
        return int(run.result.get("steps", step))
    length = parse_duration(run.recipe.duration)
    if length.unit == "steps":
        return length.num_steps(1)
    last = next((line for line in reversed(lines) if line.get("epoch")), None)
    return None if last is None else length.num_steps(round(last["step"] / last["epoch"]))


async def _judgement(judge: Judge, served: Served) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "judged": False,
        "confusion": None,
        "mistakes": [],
        "per_class": [],
        "num_images": 0,
        "reason": "",
    }
    if not served.finished:
        return nothing
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            judged = await asyncio.shield(judge.begun(served))
    except TimeoutError:
        return nothing  # under way: who asks again finds it done
    except Refused as refusal:
        return {**nothing, "judged": True, "reason": refusal.message}
    return await asyncio.to_thread(_told, judged)


def _told(judged: Judged) -> dict[str, Any]:
    few = len(judged.classes) <= _MOST_CLASSES
    return {
        "judged": True,
        "confusion": judged.confusion() if few else None,
        "mistakes": judged.mistakes(),
        "per_class": judged.per_class(),
        "num_images": len(judged.numbers),
        "reason": "" if few else f"{len(judged.classes)} classes are too many for a matrix",
    }
