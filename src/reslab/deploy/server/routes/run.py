"""`/v1/models/NAME/run`: the curves of a run as far as it is, and what its network makes of the test images."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from reslab.deploy.server.errors import Refused, refused
from reslab.deploy.server.schemas import LATE, SEEING, ConfusionAnswer, RunAnswer
from reslab.deploy.server.state import House
from reslab.deploy.service.examples import PathName
from reslab.deploy.service.judging import Judge, Judged
from reslab.deploy.service.served import Served
from reslab.spec.optim import parse_duration
from reslab.training.run import Run

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
    length = parse_duration(run.recipe.length)
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
