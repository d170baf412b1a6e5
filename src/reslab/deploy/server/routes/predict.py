"""`POST /v1/predict`: pictures to class names with probabilities."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from reslab.deploy.server.ablation import numbers
from reslab.deploy.server.errors import Refused, refused
from reslab.deploy.server.schemas import ASKING, SEVERAL, ModelName, PredictAnswer
from reslab.deploy.server.state import House, Opened

_MOST_CLASSES = 1000


def predict_routes(house: House) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/predict", response_model=PredictAnswer, responses=ASKING, openapi_extra=SEVERAL)
    async def predict(
        request: Request,
        model: ModelName = "",
        top_k: Annotated[int, Query(ge=1, le=_MOST_CLASSES, description="How many classes.")] = 5,
    ) -> JSONResponse:
        """Class names with probabilities for pictures; one that cannot be read among others is a row with its error."""
        begun = time.perf_counter()
        served = house.find(model)
        async with house.met(request) as body:
            opened = await house.opened(served.name)
            if not body.images:
                raise refused(422, "at least one picture", "none", "send it as the body, as a form's image, or in JSON")
            rows = await asyncio.gather(*(_row(house, opened, content, top_k) for content in body.images))
        _raise_if_none(rows)
        answer = {
            "model": served.name,
            "predictions": [{"classes": [], "error": row.message} if isinstance(row, Refused) else row for row in rows],
            "engine": opened.answering.engine.name,
            "precision": opened.answering.engine.precision,
            "milliseconds": round(1000 * (time.perf_counter() - begun), 3),
        }
        return JSONResponse(answer)

    return router


async def _row(house: House, opened: Opened, content: bytes, top_k: int) -> dict[str, Any] | Refused:
    try:
        return {"classes": best(await house.answer(content, opened), opened.classes, top_k)}
    except Refused as refusal:
        return refusal


def _raise_if_none(rows: Sequence[Any]) -> None:
    """Where no picture could be read the first one's refusal is the answer."""
    if all(isinstance(row, Refused) for row in rows):
        raise rows[0]


def best(probabilities: Tensor, classes: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The most probable classes of (classes,), each with name and probability, the most probable first."""
    values, labels = numbers(probabilities).topk(min(top_k, len(classes)))
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return [{"name": classes[label], "probability": value} for label, value in pairs]
